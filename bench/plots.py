"""The plots of docs/performance.md, from the results kept in results/: SVG and PNG, the same bytes for the same input.

make plots
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from contenders import HERE
from results import RESULTS, apart, cpu_bars, curves, label, memory_lines, read, read_scales, room_lines

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
OTHER = "#777777"
INK, PALE = "#222222", "#DDDDDD"
WIDTH = 8.0
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "signal-engine",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
LABEL_INCHES = 0.17  # from one label to the next
LINES_INCHES, LATENCY_INCHES = 4.6, 3.9  # the height of a plot of lines; of each part of that of latencies
MARGIN = 1.5  # by this factor, above and below all lines
FEW_DECADES = 200  # up to this ratio an axis has more marks than powers of ten
PALER = 0.6  # of white, in the colour of system time

Lines = dict[str, list[tuple[float, float]]]


def colour(contender: str) -> str:
    """Each contender's own."""
    return COLOURS.get(contender, OTHER)


def paler(colour_of: str) -> tuple[float, ...]:
    """The same with white in it, and nothing to be seen through it."""
    return tuple(part + (1 - part) * PALER for part in to_rgb(colour_of))


def weight(contender: str) -> str:
    """The engine stands out."""
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


def end_labels(axes: Axes, lines: Lines, texts: dict[str, str], height: float) -> None:
    """Name each line beside axes of so many inches, with a thin line from its last point, so that no names touch."""
    low, high = (math.log10(value) for value in axes.get_ylim())
    names = list(lines)
    places = [(math.log10(lines[name][-1][1]) - low) / (high - low) for name in names]
    for name, place in zip(names, apart(places, LABEL_INCHES / height), strict=True):
        axes.annotate(
            texts[name],
            lines[name][-1],
            (1.03, place),
            textcoords="axes fraction",
            va="center",
            color=colour(name),
            fontweight=weight(name),
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": colour(name), "lw": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3},
        )


def log_axes(axes: Axes, lines: Lines, y_format: Callable[[float, object], str] = plain) -> None:
    """Both axes logarithmic, the y axis as long as the lines need."""
    ys = [y for points in lines.values() for _, y in points]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(min(ys) / MARGIN, max(ys) * MARGIN)
    few = max(ys) / min(ys) < FEW_DECADES
    for axis, text, subs in ((axes.xaxis, plain, (1,)), (axes.yaxis, y_format, (1, 2, 5) if few else (1,))):
        axis.set_major_locator(LogLocator(subs=subs, numticks=30))
        axis.set_major_formatter(FuncFormatter(text))
        axis.set_minor_locator(NullLocator())


def draw_lines(axes: Axes, lines: Lines, marker: str = "o") -> None:
    """One line each, the engine's above the others."""
    for name, points in lines.items():
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker=marker, color=colour(name), zorder=4 if name == "engine" else 3, clip_on=False)


def memory_plot(folder: Path) -> Figure | None:
    """User memory against connections."""
    each = memory_lines(read("memory", folder), read_scales(folder))
    lines: Lines = {name: [(n, n * bytes_each) for n, bytes_each in points] for name, points in each.items()}
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, LINES_INCHES), layout="constrained")
    axes = figure.subplots()
    log_axes(axes, lines, size)
    draw_lines(axes, lines)
    axes.set_title("User memory of idle connections, and of each at the last point")
    axes.set_xlabel("connections")
    axes.set_ylabel("memory of all server processes, less that before")
    end_labels(axes, lines, {name: f"{label(name)}, {each[name][-1][1]:,.0f} B each" for name in lines}, LINES_INCHES)
    return figure


def rooms_plot(folder: Path) -> Figure | None:
    """Room size against the time to its last member."""
    lines: Lines = {
        name: [(float(n), ms) for n, ms in points] for name, points in room_lines(read("rooms", folder)).items()
    }
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, LINES_INCHES), layout="constrained")
    axes = figure.subplots()
    log_axes(axes, lines)
    draw_lines(axes, lines)
    axes.set_title("Mean time from a publish until the room's last member has heard it")
    axes.set_xlabel("members of the room")
    axes.set_ylabel("milliseconds")
    end_labels(axes, lines, {name: label(name) for name in lines}, LINES_INCHES)
    return figure


def bars(axes: Axes, found: list[tuple[str, float, float]], title: str) -> None:
    """A stacked bar for each contender, the least at the top."""
    rows = list(range(len(found)))[::-1]
    longest = max(user + system for _, user, system in found)
    for row, (name, user, system) in zip(rows, found, strict=True):
        axes.barh(row, user, color=colour(name), height=0.62)
        axes.barh(row, system, left=user, color=paler(colour(name)), height=0.62)
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
    found = {title: got for name, title in titles.items() if (got := cpu_bars(kept, name))}
    if not found:
        return None
    rows = [len(got) for got in found.values()]
    figure = Figure(figsize=(WIDTH, 0.32 * sum(rows) + 0.75 * len(rows) + 0.5), layout="constrained")
    every = figure.subplots(len(found), height_ratios=[n + 0.4 for n in rows], squeeze=False)[:, 0]
    for axes, (title, got) in zip(every, found.items(), strict=True):
        bars(axes, got, title)
    every[-1].set_xlabel("µs of the servers' CPU a delivery: user (full colour) + system (pale)")
    return figure


def nines(share: float, _position: object = None) -> str:
    """The percentile that has this share above it."""
    return f"{100 * (1 - share):.10g} %"


def latency_axes(axes: Axes, lines: Lines, title: str) -> None:
    """Percentiles on an axis that gives each nine the same room."""
    log_axes(axes, lines)
    draw_lines(axes, lines, marker="")
    axes.set_xlim(1, min(share for points in lines.values() for share, _ in points))
    axes.xaxis.set_major_formatter(FuncFormatter(nines))
    axes.set_title(title)
    axes.set_ylabel("µs, one way")
    end_labels(axes, lines, {name: label(name) for name in lines}, LATENCY_INCHES)


def latency_plot(folder: Path) -> Figure | None:
    """Latency percentiles."""
    kept = read("macro", folder)
    titles = {"pair": "Latency between two clients of one node", "cross-pair": "Between two clients of two nodes"}
    found = {title: got for name, title in titles.items() if (got := curves(kept, name))}
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, LATENCY_INCHES * len(found)), layout="constrained")
    every = figure.subplots(len(found), squeeze=False)[:, 0]
    for axes, (title, lines) in zip(every, found.items(), strict=True):
        latency_axes(axes, lines, title)
    every[-1].set_xlabel("percentile of messages")
    return figure


MAKERS = {"memory": memory_plot, "cpu": cpu_plot, "latency": latency_plot, "rooms": rooms_plot}


def save(figure: Figure, name: str, folder: Path) -> None:
    """Write a figure in both formats, without anything that differs from run to run."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    figure.savefig(folder / f"{name}.png", dpi=130, metadata={"Software": None})


def main() -> int:
    """0: what has results is plotted; a line tells of what has none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: bench/results)")
    parser.add_argument("--to", type=Path, default=PLOTS, help="folder (default: docs/plots)")
    options = parser.parse_args()
    with mpl.rc_context(STYLE):
        for name, make in MAKERS.items():
            if (figure := make(options.results)) is None:
                for left in options.to.glob(f"{name}.*"):
                    left.unlink()
                print(f"{name}: no results are kept: make bench-performance")
            else:
                save(figure, name, options.to)
                print(f"{name}: {options.to.name}/{name}.svg, .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
