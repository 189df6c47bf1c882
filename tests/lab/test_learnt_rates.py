"""Rates learnt from a real Slurm's accounting."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftslurm.core.lemons import Mark
from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import Who
from ftslurm.ledger import Writer
from ftslurm.plan.rates import learnt
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import JobState
from ftslurm.slurm.usage import stays
from tests.lab.longer import long_test


@pytest.fixture
def client(lab: Cluster, tmp_path: Path) -> SlurmClient:
    """A client of the ordinary user; slurmdbd is asked from the login host, which can reach it."""
    who = Who(user=lab.user, env={"SLURM_TIME_FORMAT": "%s"})
    wrapper = tmp_path / "sacct"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(lab.command("login", ["sacct"], who))} "$@"\n')
    wrapper.chmod(0o755)
    return SlurmClient(environ={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Poll until `condition()` holds; fail the test if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.5)


@long_test("a node of a job is lost, and Slurm takes its time to say so")
@pytest.mark.lab
def test_a_lost_node_is_a_failure_in_the_node_days_of_the_users_jobs(
    lab: Cluster, client: SlurmClient, tmp_path: Path
) -> None:
    """NODE_FAIL is found though the job was requeued under its id; with a mark in the ledger it counts once."""
    job = lab.login(["sbatch", "--parsable", "--requeue", "-N2", "-o/dev/null", "--wrap=sleep 300"], user=lab.user)
    job_id = job.stdout.strip()
    wait_until(lambda: lab.login(["squeue", "-h", "-j", job_id, "-o", "%T"]).stdout.strip() == "RUNNING")
    time.sleep(3)
    lab.login(["scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test"])
    ours = lambda: [each for each in stays(client, 2) if job_id in each.job_ids]  # noqa: E731
    wait_until(lambda: any(each.state is JobState.NODE_FAIL for each in ours()))
    lab.login(["scancel", job_id])
    failed = next(each for each in ours() if each.state is JobState.NODE_FAIL)
    assert failed.nodes == 2
    assert 2 <= failed.elapsed_s <= 60
    assert failed.start is not None
    found = learnt(client, tmp_path / "ledger", days=2)
    assert (found.faults, found.rate is not None) == (1, True)
    assert found.node_days == pytest.approx(sum(each.nodes * each.elapsed_s for each in ours()) / 86400, abs=1e-3)
    Writer(tmp_path / "ledger", "r").mark(Mark(node="n1", at=failed.start + 1, cause="node_down", job=job_id))
    again = learnt(client, tmp_path / "ledger", days=2)
    assert again.faults == 1
    assert "1 in the node ledger, 0 NODE_FAIL" in again.reason
