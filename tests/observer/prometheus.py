"""A real Prometheus for a test, and the queries of the dashboard and the alerts that are put to it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftslurm.paths import templates

ALERTS = templates() / "prometheus" / "alerts.yml"
DASHBOARD = templates() / "grafana" / "ftslurm.json"
PATIENCE_S = 60.0
RATE_INTERVAL = "10s"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool are not installed (scripts/setup)",
)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs on this host."""

    address: str

    def ask(self, path: str, **words: str) -> dict:
        """The data of an answer."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with opener.open(url, timeout=10) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expression: str) -> list[dict]:
        """What a query finds now."""
        return self.ask("query", query=expression)["result"]

    def rules(self) -> dict[str, str]:
        """The health of every alert: ok when its expression could be evaluated."""
        groups = self.ask("rules")["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}


@contextmanager
def prometheus(folder: Path, scrape: list[dict]) -> Iterator[Prometheus]:
    """A Prometheus that scrapes every second and evaluates our alerts; it is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": scrape,
    }
    folder.mkdir()
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    listen = f"--web.listen-address=127.0.0.1:{port}"
    argv = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/data", listen, "--log.level=warn"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield Prometheus(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def wait(what: str, test: Callable[[], object]) -> None:
    """Poll until `test` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not _holds(test):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s"
        time.sleep(0.1)


def _holds(test: Callable[[], object]) -> bool:
    try:
        return bool(test())
    except OSError:
        return False  # it does not listen yet


def dashboard_queries(run: str) -> dict[str, str]:
    """Every query of the dashboard, by its panel, with the variables filled in."""
    board = json.loads(DASHBOARD.read_text())
    found = {f"annotation {each['name']}": each["expr"] for each in board["annotations"]["list"]}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    (definition,) = (each["definition"] for each in board["templating"]["list"] if each["name"] == "run")
    found["variable run"] = re.fullmatch(r"label_values\((\w+), run\)", definition)[1]
    filled = {
        name: text.replace("$run", run).replace("$__rate_interval", RATE_INTERVAL) for name, text in found.items()
    }
    assert not [text for text in filled.values() if "$" in text]
    return filled


def without_data(found: Prometheus, run: str) -> list[str]:
    """The queries of the dashboard that find nothing, or no number."""
    queries = dashboard_queries(run)
    assert len(queries) > 35
    return [name for name, text in queries.items() if not _numbers(found.query(text))]


def _numbers(result: list[dict]) -> bool:
    return any(each["value"][1] != "NaN" for each in result)
