from __future__ import annotations

import json
import re
import subprocess

import yaml

from ftslurm.insight import palette
from ftslurm.observe_section import Observe
from ftslurm.observer.__main__ import Observer
from tests.conftest import ROOT
from tests.observer.prometheus import (
    ALERTS,
    DASHBOARD,
    dashboard_queries,
    needs_prometheus,
    prometheus,
    wait,
    without_data,
)
from tests.observer.worlds import JOB, eventful, now, run_with

COLOURS = {*palette.CATEGORIES.values(), *palette.SERIES}
"""Those of Okabe and Ito, and two greys."""


@needs_prometheus
def test_every_alert_fires_where_it_should_and_a_healthy_run_has_none():
    """Promtool's own unit tests of the rules."""
    for argv in (
        ["promtool", "check", "rules", str(ALERTS)],
        ["promtool", "test", "rules", str(ROOT / "tests/data/prometheus/alerts.test.yml")],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_what_to_do():
    """Each runbook_url leads to a heading of the documentation, and the tests know each alert."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    tested = (ROOT / "tests/data/prometheus/alerts.test.yml").read_text()
    for rule in group["rules"]:
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        headings = re.findall(r"^## (.+)$", (ROOT / path).read_text(), re.MULTILINE)
        assert rule["alert"] in headings
        assert anchor == rule["alert"].lower()
        assert f"alertname: {rule['alert']}\n        exp_alerts" in tested


def test_the_dashboard_asks_in_the_order_of_an_on_call_person():
    """Rows as agreed; panels do not overlap; every panel says what it shows; colours can be told apart by everybody."""
    board = json.loads(DASHBOARD.read_text())
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Is it training?", "What did failures cost?", "Detection", "Recovery", "Checkpoints", "Nodes"]
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "run"]
    cells = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not mine & cells
        cells |= mine
        assert panel["type"] == "row" or panel["description"]
    used = set(re.findall(r"#[0-9A-F]{6}", DASHBOARD.read_text()))
    assert used <= COLOURS
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@needs_prometheus
def test_a_real_prometheus_finds_the_run_and_all_that_the_dashboard_asks_for(tmp_path):
    """By file_sd and HTTP: every query has numbers, every alert can be evaluated; when the run ends its series are stale."""
    tale = eventful()
    paths = run_with(tmp_path)
    watched = Observer(paths, JOB, Observe(metrics="http").plain())
    half = len(tale.entries) // 3
    scrape = [
        {"job_name": "ftslurm", "file_sd_configs": [{"files": [str(paths.metrics_address)], "refresh_interval": "1s"}]}
    ]
    with prometheus(tmp_path / "prometheus", scrape) as found:
        for entry in tale.entries[:half]:
            watched.take(f'{{"entry":{entry.line()}}}')
        watched.take(json.dumps({"now": now(tale, step=300)}))
        watched.refresh()
        queries = dashboard_queries(paths.run_id)
        wait("the first scrape", lambda: found.query(queries["variable run"]))
        for entry in tale.entries[half:]:
            watched.take(f'{{"entry":{entry.line()}}}')
        watched.take(json.dumps({"now": now(tale)}))
        wait("data for every query", lambda: without_data(found, paths.run_id) == [])
        wait("every alert is evaluated", lambda: set(found.rules().values()) == {"ok"})
        watched.close()
        wait("the series are gone", lambda: not found.query(queries["variable run"]))
