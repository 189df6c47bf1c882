from __future__ import annotations

import time
from pathlib import Path

import pytest

from ftslurm import ledger
from ftslurm.config import parse
from ftslurm.core.diagnosis import Cause, Diagnosis, Scope
from ftslurm.core.events import Event, Phase
from ftslurm.core.lemons import Evidence
from ftslurm.core.pricing import REQUEUE_DELAY_S
from ftslurm.core.state import Run
from ftslurm.core.survey import NodesSurveyed, QueueEstimated
from ftslurm.core.xids import Xid
from ftslurm.runtime.forecast import Forecaster, Place
from ftslurm.runtime.memory import Memory
from ftslurm.slurm.client import SlurmClient
from tests.slurm.fake import FakeSlurm

YAML = "name: a\ncommand: [x]\nresources: {nodes: 2, gpus_per_node: 1, time: 1:00:00}\nrecovery: {placement: %s}\n"
RUN = Run(wanted=2, job_id="7", condemned={}, suspects={"n4": 3.0})
PATIENCE_S = 20.0


def found(cause: Cause, node: str) -> Diagnosis:
    """A verdict on a node."""
    return Diagnosis(cause=cause, scope=Scope.NODE, where=node, confidence=0.9, reason=f"{node} is {cause}")


def test_nodes_that_failed_are_remembered(tmp_path):
    """A node that was given up for what it did leaves a mark, once; one that Slurm took away leaves none."""
    memory = Memory(tmp_path, "run-1", "main")
    lost = {"n2": found(Cause.NODE_UNREACHABLE, "n2"), "n3": found(Cause.EXCISED, "n3")}
    after = Run(job_id="7", condemned=lost)
    memory.note(Run(), after)
    memory.note(after, after)
    memory.close(PATIENCE_S)
    (mark,) = ledger.read(tmp_path).marks
    assert (mark.node, mark.cause, mark.evidence, mark.weight) == ("n2", "node_unreachable", Evidence.SOFT, 1.0)
    assert (mark.run, mark.job, mark.reason) == ("run-1", "7", "n2 is node_unreachable")


def test_omens_of_a_gpu_are_remembered(tmp_path):
    """A remapped row of memory stops nobody and leaves a light mark, once; a program's own error leaves none."""
    memory = Memory(tmp_path, "run-1", "main")
    seen = (Xid(node="n1", gpu="0000:3b:00", code=31, at=1.0), Xid(node="n2", gpu="0000:86:00", code=63, at=2.0))
    memory.note(Run(), Run(xids=seen[:1]))
    memory.note(Run(xids=seen[:1]), Run(job_id="7", xids=seen))
    memory.note(Run(xids=seen), Run(job_id="7", xids=(seen[1],)))
    memory.close(PATIENCE_S)
    (mark,) = ledger.read(tmp_path).marks
    assert (mark.node, mark.cause, mark.evidence, mark.weight) == ("n2", "xid_63", Evidence.HARD, 0.25)
    assert mark.reason == "XID 63 on GPU 0000:86:00"


def test_the_wait_of_a_requeue_is_remembered(tmp_path):
    """What it took beyond Slurm's own delay."""
    memory = Memory(tmp_path, "run-1", "main")
    before = Run(phase=Phase.REQUEUED, requeued_at=time.time() - REQUEUE_DELAY_S - 600)
    memory.note(before, Run(phase=Phase.STARTING, nodes=("n1", "n2")))
    memory.close(PATIENCE_S)
    (wait,) = ledger.read(tmp_path).waits
    assert wait.wait_s == pytest.approx(600, abs=30)
    assert (wait.partition, wait.nodes) == ("main", 2)


def test_a_ledger_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    """The log says so."""
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file", "run-1", "main")
    memory.close(PATIENCE_S)
    memory.note(Run(), Run(condemned={"n2": found(Cause.NODE_DOWN, "n2")}))
    memory.close(PATIENCE_S)
    assert "the node ledger was not written" in caplog.text


def told(tmp_path: Path, fake: FakeSlurm, placement: str = "round_robin") -> list[Event]:
    """What a forecaster says before a plan."""
    events: list[Event] = []
    config = parse(YAML % placement, "f")
    place = Place(config=config, partition="main", ledger=tmp_path / "ledger")
    forecaster = Forecaster(SlurmClient(environ=fake.environ), place, events.append)
    forecaster.expect_plan(RUN)
    forecaster.expect_plan(RUN)
    deadline = time.monotonic() + PATIENCE_S
    while not any(isinstance(event, QueueEstimated) for event in events) and time.monotonic() < deadline:
        time.sleep(0.01)
    return events


@pytest.fixture
def fake(tmp_path):
    """Give a Slurm of four nodes."""
    return FakeSlurm(tmp_path)


def test_slurms_word_alone_is_not_believed(tmp_path, fake):
    """Without measured requeues nobody knows the wait; the source says what Slurm has said."""
    (event,) = told(tmp_path, fake)
    assert event.wait_s is None
    assert "0 requeues were measured, 3 are wanted" in event.source
    (call,) = [call for call in fake.calls if call[0] == "sbatch"]
    for option in ("--test-only", "--nodes=2", "--partition=main", "--time=0-01:00:00", "--exclude=n4"):
        assert option in call


def test_the_larger_of_forecast_and_history_counts(tmp_path, fake):
    """Three measured requeues: their median, or what Slurm says where that is more; other partitions do not count."""
    writer = ledger.Writer(tmp_path / "ledger", "r")
    now = time.time()
    for wait_s in (10.0, 1e9, 2e9):
        writer.wait(ledger.Wait(at=now, wait_s=wait_s, partition="main", nodes=2))
        writer.wait(ledger.Wait(at=now, wait_s=5e9, partition="other", nodes=2))
        writer.wait(ledger.Wait(at=now - 1e8, wait_s=5e9, partition="main", nodes=2))
    (event,) = told(tmp_path, fake)
    assert event.wait_s == 1e9


def test_what_slurm_would_refuse_is_unknown(tmp_path, fake):
    """No answer is no wait of nothing."""
    fake.fail("sbatch", "refuse")
    (event,) = told(tmp_path, fake)
    assert event.wait_s is None
    assert event.source


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("topology", NodesSurveyed(switches=(("n1", "a"), ("n2", "a")))),
        ("load_balanced", NodesSurveyed(loads=(("n1", 0.5),))),
    ],
)
def test_nodes_are_surveyed_where_the_placement_needs_it(tmp_path, fake, placement, expected):
    """Switches or loads, whichever decides."""
    fake.change("topology", value="SwitchName=a Level=0 LinkSpeed=1 Nodes=n[1-2]")
    fake.change("nodes", "n1", "load", value="2.00")
    assert told(tmp_path, fake, placement)[0] == expected
