"""A GPU falls off the bus in training, and a scratch fills up: seen by probes, said, and acted upon by rules."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, await_that, program, submit, workplace
from tests.runtime.nvml import FakeNvml, build

pytestmark = pytest.mark.lab

GPUS = 8
MODE = Path("/scratch/nvml-mode")
SMALL = "/scratch/small"


@pytest.fixture
def nvml(lab: Cluster) -> Iterator[FakeNvml]:
    """A fake NVML on shared storage; what it plays stands on every node's own scratch."""
    folder = lab.shared / "nvml"
    folder.mkdir()
    yield build(folder)
    shutil.rmtree(folder)
    for node in lab.nodes:
        (lab.scratch(node) / MODE.name).unlink(missing_ok=True)


@pytest.fixture
def small_scratch(lab: Cluster) -> Iterator[str]:
    """A scratch of 32 MB on n2, and an ordinary one of the same name on the other nodes."""
    for node in lab.nodes:
        lab.exec(node, ["mkdir", "-m", "1777", SMALL])
    lab.exec("n2", ["mount", "-t", "tmpfs", "-o", "size=32m,mode=1777", "tmpfs", SMALL])
    yield SMALL
    lab.exec("n2", ["umount", "-l", SMALL])


def listen(lab: Cluster, work: Path, nvml: FakeNvml, scratch: str) -> LabRun:
    """Submit a patient program whose nodes are probed every second, and whose hook writes down what it hears."""
    fake = {name: value for name, value in nvml.environ(GPUS, MODE).items() if os.environ.get(name) != value}
    exported = ",".join(f"{name}={value}" for name, value in fake.items())
    return submit(
        lab,
        program("until_told", "--until", work / "enough"),
        name="health",
        nodes=4,
        work=work,
        options=[f"--export=ALL,{exported}"],
        resources={"gpus_per_node": GPUS},
        checkpoint={"scratch": scratch},
        probes={"interval": "1s"},
        rules=[
            {"metric": "scratch_free", "below": 50, "for": 1, "severity": "critical", "action": "avoid"},
            # The lab's nodes share a few cores, and these with whatever else is being tested.
            *({"metric": name, "above": 1e6, "action": "none"} for name in ("load_per_core", "memory_pressure")),
        ],
        hooks={"health": ["/bin/sh", "-c", f"cat >> {work}/heard"]},
    )


def test_sick_nodes_are_found_and_left(lab: Cluster, nvml: FakeNvml, small_scratch: str) -> None:
    """n3 is given up for its GPU, n2 is avoided at the relaunch for its scratch, the other two train on to the end."""
    work = workplace(lab, "health", None)
    run = listen(lab, work, nvml, small_scratch)
    run.wait("a committed checkpoint", run.durable)
    lab.exec("n2", ["dd", "if=/dev/zero", f"of={small_scratch}/ballast", "bs=1M", "count=20"])
    run.wait("n2's scratch is found full", lambda: "n2: scratch_free is" in run.said())
    assert len(run.launches()) == 1

    (lab.scratch("n3") / MODE.name).write_text("lost")
    run.wait("training goes on", lambda: len(run.actions("ReleaseRanks")) == 2)
    assert run.launches()[1] == ("n1", "n4")
    assert "n3: gpu_lost of gpu1 is 1" in run.said()
    assert "n2 is left out of the next attempt: scratch_free is" in run.said()

    status = json.loads(lab.login(["ftslurm", "status", run.run_id, "--json"], timeout=60).stdout)
    ill = status["runs"][0]["health"]
    assert {node: [each["metric"] for each in ills] for node, ills in ill.items()} == {
        "n2": ["scratch_free"],
        "n3": ["gpu_lost"],
    }
    heard = [json.loads(line) for line in (work / "heard").read_text().splitlines()]
    assert [(each["node"], each["level"]) for each in heard] == [("n2", "critical"), ("n3", "failed")]

    run.enough()
    assert run.wait_end() == ("finished", 0)
    await_that("nothing is left", lambda: not run.processes(), 30)
