"""What deploy/monitoring has for Prometheus and Grafana, against an engine and promtool."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import kit

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
METRIC = re.compile(r"\bsignal_engine_\w+")
ALERTS = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def promtool(*arguments: str, text: str = "") -> str:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run(
        ["promtool", *arguments],
        check=False,
        input=text,
        capture_output=True,
        text=True,
        cwd=FOLDER,
        timeout=kit.PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def exported(engine: kit.Engine) -> set[str]:
    """The names of all samples of an engine."""
    page = engine.get("metrics").decode()
    return {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}


def test_rules_and_configuration_are_valid() -> None:
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_and_stays_quiet() -> None:
    promtool("test", "rules", "alerts.test.yml")
    tests = (FOLDER / "alerts.test.yml").read_text(encoding="utf-8")
    for alert in re.findall(r"- alert: (\w+)", ALERTS):
        assert f"- name: {alert}\n" in tests
        assert f"- name: {alert}, quiet\n" in tests


def test_promtool_accepts_the_page_of_an_engine() -> None:
    with kit.engine() as engine:
        promtool("check", "metrics", text=engine.get("metrics").decode())


def test_alerts_and_dashboard_name_metrics_that_there_are() -> None:
    with kit.engine() as engine:
        names = exported(engine)
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for text in (ALERTS, *queries):
        assert set(METRIC.findall(text)) <= names
    assert {name.removesuffix("_bucket") for name in names if name.endswith("_seconds_bucket")} == {
        name.removesuffix("_bucket") for name in METRIC.findall(" ".join(queries)) if name.endswith("_bucket")
    }


def test_labels_replace_the_old_counters() -> None:
    with kit.engine(loops=1) as engine:
        page = engine.get("metrics").decode()
    for first, label in (("refused", "reason"), ("dropped", "cause")):
        old = set(re.findall(rf"^signal_engine_{first}_(\w+)_total\{{", page, re.MULTILINE))
        new = set(re.findall(rf'^signal_engine_{first}_total\{{.*{label}="(\w+)"', page, re.MULTILINE))
        assert new == old
        assert len(new) > 5
    assert 'Deprecated: signal_engine_dropped_total{cause="gone"} replaces it' in page.replace('\\"', '"')


def test_each_alert_leads_to_a_section() -> None:
    for page, anchor in re.findall(r"runbook_url: ([\w/.]+)#([\w-]+)", ALERTS):
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert ALERTS.count("- alert:") == ALERTS.count("runbook_url:") == ALERTS.count("runbook:")


def test_panels_do_not_overlap() -> None:
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]})
