"""Samples on the lab: what agents write of their nodes, when shared storage hangs, and the report that comes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.passthrough import Fault
from tests.lab.longer import long_test
from tests.lab.training import LabRun, let_pass, program, settings, workplace

STALL_S = 20.0


def samples_of(run: LabRun) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The whole lines of every file, by node."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted((run.root / "samples").glob("*.jsonl")):
        lines = path.read_text().split("\n")[:-1]
        found.setdefault(path.name.split(".")[0], []).extend(json.loads(line) for line in lines)
    return found


@long_test("samples while shared storage hangs, and the report of a run that lost a node")
def test_samples_outlive_storage_that_hangs(lab: Cluster) -> None:
    """A stall costs no sample and nobody's beats; the report shows the node that is lost later, made by the user's own call."""
    storage = lab.storage
    storage.attach()
    outside = workplace(lab, "samples", None)
    inside = storage.path / outside.name
    lab.login(["mkdir", "-m", "700", str(inside)], timeout=30)
    command = program("until_told", "--until", outside / "enough")
    config = settings("samples", command, 3, {"observe": {"sample_every": "1s"}})
    (outside / "config.yaml").write_text(json.dumps(config))
    argv = ["ftslurm", "submit", str(outside / "config.yaml"), "--json", "--run-root", str(inside / "runs")]
    answer = json.loads(lab.login(argv, timeout=60).stdout)
    run_id = Path(answer["run_dir"]).name
    # What lies below the storage can be read while it hangs.
    run = LabRun(lab, storage.backing / inside.name / "runs" / run_id, outside, answer["job_id"])
    run.wait("a committed checkpoint", run.durable)
    run.wait("samples of every node", lambda: len(samples_of(run)) == 3)
    before = max(each["t"] for told in samples_of(run).values() for each in told)
    storage.fail(Fault.HANG)
    let_pass(STALL_S)
    storage.restore()
    run.wait(
        "the samples of the stall",
        lambda: all(any(before + 2 < one["t"] < before + STALL_S for one in told) for told in samples_of(run).values()),
    )
    assert run.events("NodeSuspected") == []
    assert all({"t", "memory", "load"} <= each.keys() for told in samples_of(run).values() for each in told)
    lab.cut("n3")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    run.enough()
    assert run.wait_end() == ("finished", 0)
    done = lab.login(["ftslurm", "report", answer["run_dir"]], timeout=120)
    assert done.returncode == 0, done.stderr
    page = storage.backing / Path(done.stdout.strip()).relative_to(storage.path)
    assert "given up: n3" in page.read_text()
    assert {path.suffix for path in page.parent.iterdir()} == {".html", ".json", ".png", ".svg", ".csv"}
    storage.detach()
