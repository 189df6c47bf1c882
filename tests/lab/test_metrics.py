"""What Prometheus and people are told of real runs."""

from __future__ import annotations

import functools
import http.server
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftslurm.insight import filed
from ftslurm.insight.reading import stamp
from ftslurm.insight.walltime import Category
from ftslurm.lab.cluster import Cluster
from ftslurm.paths import RunPaths
from tests.lab.library import library
from tests.lab.longer import long_test
from tests.lab.training import LabRun, workplace
from tests.observer.prometheus import needs_prometheus, prometheus, wait, without_data
from tests.observer.test_families import samples

pytestmark = pytest.mark.lab

TELL = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def of(run: LabRun) -> dict:
    """The samples in a run's textfile; none while there is none."""
    try:
        return samples((run.root / "metrics.prom").read_text())
    except FileNotFoundError:
        return {}


def kill_rank(run: LabRun, number: int) -> None:
    """End one rank's program."""
    (victim,) = [proc for proc in run.processes("rank") if proc.rank == number]
    victim.send(signal.SIGKILL)


def test_a_run_is_told_of_while_it_lives(lab: Cluster) -> None:
    """The file comes and goes with the run; its categories sum to the wall time; a failure and the end are told."""
    out = workplace(lab, "told", None) / "told"
    observe = {"notify": [{"on": ["started", "failure", "recovered", "finished"], "every": "0s",
                           "exec": [sys.executable, "-c", TELL, str(out)]}]}  # fmt: skip
    run = library(lab, name="seen", nodes=2, words=("--steps", 70), observe=observe)
    run.wait("a step in the metrics", lambda: of(run).get(("ftslurm_training_step", ()), 0) >= 20)
    kill_rank(run, 1)
    recovered = ("ftslurm_recoveries_total", (("outcome", "recovered"), ("plan", "relaunch")))
    run.wait("a recovery in the metrics", lambda: of(run).get(recovered) == 1)
    found = of(run)
    wall = {name: found["ftslurm_wall_seconds_total", (("category", name),)] for name in Category}
    releases = [
        record["t"] for record in run.records() if "ReleaseRanks" in {each["type"] for each in record["actions"]}
    ]
    begun = (run.root / "key").stat().st_mtime
    # They were told after the second release, and before now.
    assert releases[1] - begun - 0.1 <= sum(wall.values()) <= time.time() - begun + 0.1
    assert wall["loading"] > 0
    assert wall["recovering"] > 0
    assert found["ftslurm_failures_total", (("class", "application"), ("scope", "job"))] >= 1
    assert run.wait_end() == ("finished", 0)
    assert not (run.root / "metrics.prom").exists()
    events = [event for line in out.read_text().splitlines() for event in json.loads(line)["events"]]
    kinds = [event["occasion"] for event in events]
    assert (kinds[0], kinds[1], kinds[-2], kinds[-1]) == ("started", "failure", "recovered", "finished")
    # Nothing came after the summary that the run has left: `status` need not read the journal.
    left = filed.left_by(RunPaths(run.root))
    assert left is not None
    assert left[0] == stamp(RunPaths(run.root))
    assert left[1].phase == "finished"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The files of a folder over HTTP, as node_exporter would give them."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@long_test("a Prometheus that scrapes a run of which a rank is killed and a node is cut off; a generated run stands in")
@needs_prometheus
def test_a_real_prometheus_and_a_real_run(lab: Cluster, tmp_path: Path) -> None:
    """Every query of the dashboard has numbers, every alert can be evaluated; afterwards no series of the run is left."""
    run = library(lab, name="scraped", nodes=4, words=("--steps", 100_000))
    run.wait("three committed checkpoints", lambda: run.newest() >= 60)
    with served(run.root) as address:
        target = {"targets": [address]}
        scrape = [{"job_name": "ftslurm", "metrics_path": "/metrics.prom", "static_configs": [target]}]
        with prometheus(tmp_path / "prometheus", scrape) as found:
            wait("the first scrape", lambda: found.query("ftslurm_run_info"))
            kill_rank(run, 1)
            run.wait("the second attempt", lambda: len(run.restored_steps()) >= 2)
            lab.cut("n3")
            run.wait("the third attempt", lambda: len(run.restored_steps()) >= 3)
            wait("data for every query", lambda: without_data(found, run.run_id) == [])
            wait("every alert is evaluated", lambda: set(found.rules().values()) == {"ok"})
            lab.login(["ftslurm", "cancel", run.job], timeout=60)
            run.wait_end()
            wait("the series are gone", lambda: not found.query("ftslurm_run_info"))
