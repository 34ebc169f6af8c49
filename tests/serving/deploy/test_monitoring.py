"""The dashboard, rules and alerts that we ship speak of what the service measures."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from serving.cluster.proxy_metrics import ProxyCollector
from serving.telemetry.metrics import LATENCY_S, Meter

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "serving/deploy/prometheus"
DASHBOARD = ROOT / "serving/deploy/grafana/sosie.json"
TESTS = ("alerts_test.yml", "alerts_day_test.yml", "alerts_week_test.yml")
RUNBOOK = r"\{\{ \$externalLabels\.docs \}\}/operations\.md#[a-z-]+"
FROM_THE_SCRAPE = {"instance", "job"}
SUFFIXES = {"counter": {"_total"}, "histogram": {"_bucket", "_count", "_sum"}, "gauge": {""}}

_SELECTOR = re.compile(r"\b(sosie[\w:]*)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


def measured() -> dict[str, set[str]]:
    """Every series of the meter and of the proxy, with its labels."""
    meter = Meter()
    found: dict[str, set[str]] = {}
    families: list[tuple[Metric, set[str]]] = []
    for collector in list(meter.registry._collector_to_names):
        family: Metric = next(iter(collector.describe()))  # type: ignore[attr-defined]
        families.append((family, set(collector._labelnames)))  # type: ignore[attr-defined]
    for family in ProxyCollector(ROOT).describe():
        families.append((family, set(family._labelnames)))  # type: ignore[attr-defined]
    for family, labels in families:
        for suffix in SUFFIXES[family.type]:
            found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return rules("alerts.yml")


def dashboard_expressions() -> list[str]:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inner = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert inner
            asked.append(f"sum by ({inner[2]}) ({inner[1]})")
    return asked


def expressions() -> list[str]:
    kept = [rule["expr"] for name in ("rules.yml", "alerts.yml") for rule in rules(name)]
    return kept + dashboard_expressions()


def find_unknown(expression: str) -> set[str]:
    """Names and labels of an expression that nothing measures or records."""
    series = measured()
    recorded = {rule["record"]: recorded_labels(rule["expr"]) for rule in rules("rules.yml")}
    known = series | recorded
    unknown: set[str] = set()
    at_hand = set(FROM_THE_SCRAPE)
    for name, matchers in _SELECTOR.findall(expression):
        labels = known.get(name)
        if labels is None:
            unknown.add(name)
            continue
        at_hand |= labels
        asked = {label for label, _ in _MATCHER.findall(matchers)}
        unknown |= {f"{name}{{{label}}}" for label in asked - labels - FROM_THE_SCRAPE}
    for group in _GROUPING.findall(expression):
        unknown |= {label.strip() for label in group.split(",")} - at_hand
    return unknown


def recorded_labels(expression: str) -> set[str]:
    return {label.strip() for g in _GROUPING.findall(expression) for label in g.split(",")}


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_what_is_measured(expression: str) -> None:
    assert _SELECTOR.search(expression)
    assert find_unknown(expression) == set()


def test_every_alert_says_how_urgent_it_is_what_it_means_and_what_to_do() -> None:
    for alert in alerts():
        name = alert["alert"]
        assert re.fullmatch(r"Sosie([A-Z][a-z]+)+", name)
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert len(alert["annotations"]["summary"]) > 20, name
        assert re.fullmatch(RUNBOOK, alert["annotations"]["runbook_url"]), name
        assert alert["for"], name


def test_every_runbook_is_a_heading_of_the_operations_manual() -> None:
    manual = ROOT / "docs/operations.md"
    assert manual.is_file()
    headings = re.findall(r"^#+ (.+)$", manual.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    asked = {alert["annotations"]["runbook_url"].partition("#")[2] for alert in alerts()}
    assert asked <= anchors


def test_budgets_burn_over_the_four_pairs_of_windows() -> None:
    pairs = {("14.4", "1h", "5m"), ("6", "6h", "30m"), ("3", "1d", "2h"), ("1", "3d", "6h")}
    for name, metric, budget in (
        ("SosieErrorBudgetBurns", "request_errors", "0.001"),
        ("SosieLatencyBudgetBurns", "request_slow", "0.01"),
    ):
        found = set()
        for alert in alerts():
            if alert["alert"] == name:
                pattern = rf"sosie:{metric}:ratio_rate(\w+) > ([\d.]+) \* {re.escape(budget)}"
                (long, rate), (short, same) = re.findall(pattern, alert["expr"])
                assert rate == same
                assert alert["labels"]["window"] == long
                assert alert["labels"]["severity"] == ("page" if float(rate) >= 6 else "ticket")
                found.add((rate, long, short))
        assert found == pairs, name


def test_a_recorded_window_is_the_one_that_its_name_says() -> None:
    for rule in rules("rules.yml"):
        windows = set(re.findall(r"\[(\w+)\]", rule["expr"]))
        assert windows <= {re.sub(r".*?((?<=rate)\d+[mhd])?$", r"\1", rule["record"])}, rule


def test_a_limit_of_an_objective_is_an_edge_of_the_buckets() -> None:
    limits = {le for e in expressions() for le in re.findall(r'le="([\d.]+)"', e)}
    assert limits == {"0.25", "1.0"}
    assert {float(limit) for limit in limits} <= set(LATENCY_S)


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for e in expressions() for name, _ in _SELECTOR.findall(e)}
    families = {re.sub("_(total|bucket|count|sum)$", "", name) for name in measured()}
    assert families <= {re.sub("_(total|bucket|count|sum)$", "", name) for name in shown}


PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on the PATH")


def promtool(*arguments: object) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    promtool("check", "rules", *sorted(PROMETHEUS.glob("*.yml")))


@needs_promtool
def test_prometheus_of_the_compose_file_loads_the_rules_and_says_where_the_manual_is(
    tmp_path,
) -> None:
    file = tmp_path / "prometheus.yml"
    text = (PROMETHEUS.parent / "compose/prometheus.yml").read_text()
    assert yaml.safe_load(text)["global"]["external_labels"]["docs"].startswith("https://")
    text = text.replace("/etc/prometheus/sosie", str(PROMETHEUS))
    file.write_text(text.replace("/run/secrets/metrics", str(file)))
    promtool("check", "config", file)


@needs_promtool
def test_promtool_takes_the_dashboards_expressions(tmp_path) -> None:
    asked = [
        e.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$route", ".*")
        for e in dashboard_expressions()
    ]
    group = {"name": "g", "rules": [{"record": f"x:{i}", "expr": e} for i, e in enumerate(asked)]}
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [group]}))
    promtool("check", "rules", file)


@needs_promtool
@pytest.mark.slow
def test_each_alert_fires_when_it_should_and_ends_when_it_should() -> None:
    promtool("test", "rules", *(Path(__file__).parent / name for name in TESTS))


def test_each_alert_has_a_case() -> None:
    text = "".join((Path(__file__).parent / name).read_text("utf-8") for name in TESTS)
    for alert in alerts():
        assert alert["alert"] in text, alert["alert"]
