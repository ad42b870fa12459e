"""The plots of docs/performance.md, from bench/results: the same bytes for the same results."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from contenders import HERE
from report.performance import Lines, apart, cpu_lines, curves, memory_lines, size_lines
from results import RESULTS, label, read, read_scales

PLOTS = HERE.parent / "docs" / "plots"
COLOURS = {  # Okabe and Ito's, told apart by the colour-blind
    "engine": "#0072B2",
    "engine-2": "#004C78",
    "nats-ws": "#E69F00",
    "goproxy": "#009E73",
    "socketify": "#CC79A7",
    "picows": "#D55E00",
    "uws": "#56B4E9",
}
OTHER, INK, PALE = "#777777", "#222222", "#DDDDDD"
WIDTH = 8.0
AXES: dict[str, Any] = {
    "titlesize": 11, "titleweight": "bold", "titlelocation": "left", "spines.top": False, "spines.right": False,
    "edgecolor": INK, "labelcolor": INK, "grid": True, "axisbelow": True, "facecolor": "white",
}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "signal-engine", "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "grid.color": PALE, "grid.linewidth": 0.7, "lines.linewidth": 1.8,
    "lines.markersize": 4.5, "figure.facecolor": "white", **{f"axes.{name}": value for name, value in AXES.items()},
}
LABEL_INCHES = 0.17  # from one label to the next
LINES_INCHES, LATENCY_INCHES = 4.6, 3.9  # the height of a plot of lines; of each part of that of latencies
MARGIN = 1.5  # by this factor, above and below all lines
FEW_DECADES = 200  # up to this ratio an axis has more marks than powers of ten
PALER = 0.6  # of white, in the colour of system time

Format = Callable[[float, object], str]


def colour(contender: str) -> str:
    return COLOURS.get(contender, OTHER)


def weight(contender: str) -> str:
    return "bold" if contender == "engine" else "normal"


def plain(value: float, _position: object = None) -> str:
    """A number without an exponent."""
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def size(value: float, _position: object = None) -> str:
    """Bytes with a unit."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:,.3g} {unit}"
    return f"{value:,.0f} B"


def nines(share: float, _position: object = None) -> str:
    """The percentile that has this share above it."""
    return f"{100 * (1 - share):.10g} %"


def end_labels(axes: Axes, lines: Lines, texts: dict[str, str], height: float) -> None:
    """Names each line beside axes of so many inches, with a thin line from its last point, so that no names touch."""
    low, high = (math.log10(value) for value in axes.get_ylim())
    names = list(lines)
    places = [(math.log10(lines[name][-1][1]) - low) / (high - low) for name in names]
    for name, place in zip(names, apart(places, LABEL_INCHES / height), strict=True):
        arrow = {"arrowstyle": "-", "color": colour(name), "lw": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3}
        axes.annotate(
            texts[name], lines[name][-1], (1.03, place), textcoords="axes fraction", va="center", color=colour(name),
            fontweight=weight(name), fontsize=9, arrowprops=arrow,
        )


def draw_lines(
    axes: Axes, lines: Lines, texts: dict[str, str], height: float, marker: str = "o", y_format: Format = plain
) -> None:
    """Draws lines on logarithmic axes, the engine's above the others, each with its name at its end."""
    ys = [y for points in lines.values() for _, y in points]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(min(ys) / MARGIN, max(ys) * MARGIN)
    few = max(ys) / min(ys) < FEW_DECADES
    for axis, text, subs in ((axes.xaxis, plain, (1,)), (axes.yaxis, y_format, (1, 2, 5) if few else (1,))):
        axis.set_major_locator(LogLocator(subs=subs, numticks=30))
        axis.set_major_formatter(FuncFormatter(text))
        axis.set_minor_locator(NullLocator())
    for name, points in lines.items():
        xs, values = zip(*points, strict=True)
        axes.plot(xs, values, marker=marker, color=colour(name), zorder=4 if name == "engine" else 3, clip_on=False)
    end_labels(axes, lines, texts, height)


def lines_plot(
    lines: Lines, texts: dict[str, str], title: str, labels: tuple[str, str], y_format: Format = plain
) -> Figure | None:
    """One plot of lines; None without lines."""
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, LINES_INCHES), layout="constrained")
    axes = figure.subplots()
    draw_lines(axes, lines, texts, LINES_INCHES, y_format=y_format)
    axes.set_title(title)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    return figure


def memory_plot(folder: Path) -> Figure | None:
    """User memory against connections."""
    each = memory_lines(read("memory", folder), read_scales(folder))
    lines: Lines = {name: [(n, n * bytes_each) for n, bytes_each in points] for name, points in each.items()}
    texts = {name: f"{label(name)}, {points[-1][1]:,.0f} B each" for name, points in each.items()}
    labels = ("connections", "memory of all server processes, less that before")
    return lines_plot(lines, texts, "User memory of idle connections, and of each at the last point", labels, size)


def rooms_plot(folder: Path) -> Figure | None:
    """Room size against the time to its last member."""
    lines = size_lines(read("rooms", folder), "room", "room_ms")
    title = "Mean time from a publish until the room's last member has received it"
    return lines_plot(lines, {name: label(name) for name in lines}, title, ("members of the room", "milliseconds"))


def bars(axes: Axes, found: list[tuple[str, float, float]], title: str) -> None:
    """Draws a stacked bar for each contender, the least at the top."""
    rows = list(range(len(found)))[::-1]
    longest = max(user + system for _, user, system in found)
    for row, (name, user, system) in zip(rows, found, strict=True):
        pale = tuple(part + (1 - part) * PALER for part in to_rgb(colour(name)))
        axes.barh(row, user, color=colour(name), height=0.62)
        axes.barh(row, system, left=user, color=pale, height=0.62)
        digits = 2 if user + system < 10 else 1
        text = f"{user + system:.{digits}f}  ({user:.{digits}f} + {system:.{digits}f})"
        axes.text(user + system + longest * 0.012, row, text, va="center", fontsize=9, fontweight=weight(name))
    axes.set_yticks(rows, [label(name) for name, _, _ in found])
    for tick, (name, _, _) in zip(axes.get_yticklabels(), found, strict=True):
        tick.set_fontweight(weight(name))
    axes.set_xlim(0, longest * 1.28)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_title(title)


def cpu_plot(folder: Path) -> Figure | None:
    """CPU a delivery, user and system."""
    kept = read("macro", folder)
    titles = {
        "relay": "1:1 on one node, 500 connections in pairs",
        "fanout": "A room of 1,000 members",
        "fanout-10k": "A room of 10,000 members",
        "cross": "1:1 from node to node, over NATS",
    }
    found = {title: got for name, title in titles.items() if (got := cpu_lines(kept, name))}
    if not found:
        return None
    rows = [len(got) for got in found.values()]
    figure = Figure(figsize=(WIDTH, 0.32 * sum(rows) + 0.75 * len(rows) + 0.5), layout="constrained")
    every = figure.subplots(len(found), height_ratios=[n + 0.4 for n in rows], squeeze=False)[:, 0]
    for axes, (title, got) in zip(every, found.items(), strict=True):
        bars(axes, got, title)
    every[-1].set_xlabel("µs of the servers' CPU a delivery: user (full colour) + system (pale)")
    return figure


def latency_plot(folder: Path) -> Figure | None:
    """Latency percentiles, on an axis with the same width for each nine."""
    kept = read("macro", folder)
    titles = {"pair": "Latency between two clients of one node", "cross-pair": "Between two clients of two nodes"}
    found = {title: got for name, title in titles.items() if (got := curves(kept, name))}
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, LATENCY_INCHES * len(found)), layout="constrained")
    every = figure.subplots(len(found), squeeze=False)[:, 0]
    for axes, (title, lines) in zip(every, found.items(), strict=True):
        draw_lines(axes, lines, {name: label(name) for name in lines}, LATENCY_INCHES, marker="")
        axes.set_xlim(1, min(share for points in lines.values() for share, _ in points))
        axes.xaxis.set_major_formatter(FuncFormatter(nines))
        axes.set_title(title)
        axes.set_ylabel("µs, one way")
    every[-1].set_xlabel("percentile of messages")
    return figure


MAKERS = {"memory": memory_plot, "cpu": cpu_plot, "latency": latency_plot, "rooms": rooms_plot}


def draw(results: Path = RESULTS, to: Path = PLOTS) -> None:
    """Writes each plot in both formats, without anything that differs from run to run; removes one without results."""
    to.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, make in MAKERS.items():
            if (figure := make(results)) is None:
                for left in to.glob(f"{name}.*"):
                    left.unlink()
                print(f"{name}: no results are kept: make bench-performance")
            else:
                figure.savefig(to / f"{name}.svg", metadata={"Date": None, "Creator": None})
                figure.savefig(to / f"{name}.png", dpi=130, metadata={"Software": None})
                print(f"{name}: {to.name}/{name}.svg, .png")
