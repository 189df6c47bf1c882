"""What a supervisor does that has neither a majority nor the lease for long: the run goes on as it is configured."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from ftslurm.core.events import RequeueAnswered
from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run
from ftslurm.runtime import onward, quorum
from tests.runtime.test_onward import Submitted, fake

__all__ = ["fake"]


class Lonely:
    """A supervisor without a quorum; `said` and `fenced` are what it does besides calling Slurm."""

    def __init__(self, run: Submitted, way: str) -> None:
        self.said: list[str] = []
        self.fenced: list[str] = []
        self.epoch, self.requeuing = 3, False
        self.run, self.policy = Run(continue_by=way), Policy(continue_by=way)
        self.authority = SimpleNamespace(fence=self.fenced.append, fresh=lambda: False)
        self.voice = SimpleNamespace(say=self.said.append)
        heartbeat = run.config.heartbeat
        self.context: Any = SimpleNamespace(job=run.job(), paths=run.paths, config=SimpleNamespace(heartbeat=heartbeat))


def given_up(run: Submitted, way: str) -> Lonely:
    """A supervisor that has given up."""
    supervisor: Any = Lonely(run, way)
    quorum.give_up(supervisor)
    return supervisor


def calls(slurm, name: str) -> list[list[str]]:
    """The calls of one of Slurm's commands."""
    return [call for call in slurm.calls if call[0] == name]


def test_the_job_is_requeued_where_that_is_the_way(fake, tmp_path):
    """The same job comes back, and this supervisor does nothing any more."""
    supervisor = given_up(Submitted(tmp_path, "auto"), "requeue")
    assert ["scontrol", "requeue", "101"] in fake.calls
    assert supervisor.fenced == ["for want of a quorum the job was requeued"]
    assert supervisor.requeuing


@pytest.mark.parametrize(("way", "configured"), [("chain", "chain:2"), ("resubmit", "resubmit")])
def test_the_next_job_goes_on_and_this_one_is_cancelled(fake, tmp_path, way, configured):
    """The next job of the chain begins, or one that is submitted for it; nothing is requeued."""
    supervisor = given_up(Submitted(tmp_path, configured), way)
    assert [job for job in fake.state["jobs"] if fake.state["jobs"][job]["state"] != "CANCELLED"] == ["102"]
    assert "the run goes on in job 102" in supervisor.said[-1]
    assert not [call for call in calls(fake, "scontrol") if "requeue" in call]
    assert supervisor.fenced == ["for want of a quorum the job was cancelled"]


def test_where_nothing_goes_on_no_node_is_held(fake, tmp_path):
    """The job ends, and what continues the run is said."""
    supervisor = given_up(Submitted(tmp_path, "none"), "none")
    assert calls(fake, "scancel")
    assert "`ftslurm resume 101` continues the run" in supervisor.said[-1]


def test_a_job_that_cannot_submit_the_next_one_is_requeued(fake, tmp_path):
    """Better the other way to go on than none."""
    run = Submitted(tmp_path, "resubmit")
    fake.fail("sbatch", "refuse")
    given_up(run, "resubmit")
    assert ["scontrol", "requeue", "101"] in fake.calls


def test_a_folder_that_does_not_answer_is_waited_for_no_longer(fake, tmp_path, monkeypatch):
    """The next job may be there all the same: Slurm is asked."""
    run = Submitted(tmp_path, "chain:2")

    def hang(*_: object) -> RequeueAnswered:
        time.sleep(30)
        return RequeueAnswered(ok=False, detail="")

    monkeypatch.setattr(onward, "go_on", hang)
    monkeypatch.setattr(quorum, "ONWARD_S", 0.1)
    assert "the run goes on in job 102" in given_up(run, "chain").said[-1]


@pytest.mark.parametrize("mark", ["ftslurm-epoch=4", '{"ftslurm":"x","ftslurm-epoch":4}'])
def test_a_successor_is_left_alone(fake, tmp_path, mark):
    """Slurm knows of a supervisor of a higher epoch: this one ends nothing."""
    run = Submitted(tmp_path, "auto")
    fake.change("jobs", "101", "comment", value=mark)
    supervisor = given_up(run, "requeue")
    assert supervisor.said == []
    assert supervisor.fenced == ["Slurm says that the job has another supervisor by now"]
