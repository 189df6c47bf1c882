"""A training with DistributedDataParallel that leaves its checkpoints to ftslurm: what happens to it leaves no trace.

The program is the example of the documentation. The oracle is the same program started by hand on as many ranks outside
of the lab, without ftslurm around it: its losses, step by step, and the digest of its weights.
"""

from __future__ import annotations

import re
import signal
import sys
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.library import at_hand, history, partnered
from tests.lab.longer import long_test
from tests.lab.test_endings import hurry
from tests.lab.training import LabRun, submit, workplace
from tests.local_ranks import ROOT, run_ranks

pytestmark = [pytest.mark.lab, pytest.mark.timeout(420)]

EXAMPLE = ROOT / "docs" / "examples" / "charlm-library" / "train.py"
STEPS = 60


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What rank 0 of four prints when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    argv = [EXAMPLE, "--steps", str(STEPS), "--every", "1000000", "--log", "1", "--checkpoints", folder / "c"]
    ended = run_ranks(argv, 4, folder / "logs")
    assert ended.codes == [0] * 4, ended.outputs
    return ended.outputs[0]


def train(lab: Cluster, *, name: str, nodes: int = 4, steps: int = STEPS, **more: Any) -> LabRun:
    """Submit the example with a checkpoint every 10 steps that shared storage never gets."""
    command = [sys.executable, str(EXAMPLE), "--steps", str(steps), "--log", "1"]
    saved = {"layout": "library", "every": {"steps": 10}, "min_interval": "1s", "min_steps": 1, "durable_every": "1h"}
    saved |= more.pop("checkpoint", {})
    work = workplace(lab, name, None)
    return submit(lab, command, name=name, nodes=nodes, work=work, checkpoint=saved, **more)


def losses(text: str) -> dict[int, float]:
    """Step -> loss, of the steps that rank 0 has printed."""
    return {int(step): float(loss) for step, loss in re.findall(r"^step (\d+) loss ([\d.]+)", text, re.MULTILINE)}


def last(text: str) -> str:
    """The line that ends a complete training: step, loss, digest of the weights."""
    (line,) = re.findall(r"^final .*", text, re.MULTILINE)
    return line


def assert_no_shared_storage(run: LabRun) -> None:
    """Nothing that the second attempt began with came from shared storage, as agents and ranks have counted."""
    restored = run.events("RestoreReady")
    assert restored
    assert not any("shared" in event.get("source", "") for event in restored), restored
    assert not any("shared" in at_hand(run, node) for node in run.launches()[1])


def test_killed_rank_costs_no_bit(lab: Cluster, undisturbed: str) -> None:
    """A rank is killed: as many go on with the same samples in the same order, to weights that are the same bit for bit."""
    run = train(lab, name="bits")
    run.wait("partner copies", lambda: partnered(run))
    (victim,) = [proc for proc in run.processes("rank") if proc.rank == 2]
    victim.send(signal.SIGKILL)
    assert run.wait_end(300) == ("finished", 0)
    assert run.launches() == [run.launches()[0]] * 2
    assert_no_shared_storage(run)
    begun = run.restored_steps()[1]
    assert begun >= 10
    text, wanted = run.rank_log(1, 0), losses(undisturbed)
    assert losses(text) == {step: wanted[step] for step in range(begun + 1, STEPS + 1)}
    assert last(text) == last(undisturbed)


def test_cut_node_leaves_the_global_batch_as_it_was(lab: Cluster, undisturbed: str) -> None:
    """A node is cut off: three ranks go on from scratch and partner copies, on the same batches, to the same losses."""
    run = train(lab, name="three")
    run.wait("partner copies", lambda: partnered(run))
    lost = run.launches()[0][2]
    lab.cut(lost)
    assert run.wait_end(300) == ("finished", 0)
    assert len(run.launches()) == 2
    assert lost not in run.launches()[1]
    assert_no_shared_storage(run)
    begun = run.restored_steps()[1]
    assert begun >= 10
    text, wanted = run.rank_log(1, 0), losses(undisturbed)
    assert f"start at step {begun} on 3 ranks" in text
    assert losses(text) == pytest.approx({step: wanted[step] for step in range(begun + 1, STEPS + 1)}, rel=1e-5)


@long_test("the time limit of a program that saves by itself is in test_endings.py")
def test_time_limit_is_a_last_save_that_is_durable(lab: Cluster) -> None:
    """Before the time limit all ranks save at one step and stop; it is drained, and the requeued job goes on from it."""
    limit = {"every": {"steps": 1_000_000}, "grace": "20s"}
    run = train(lab, name="limit", nodes=2, steps=1_000_000, resources={"time": "2:00"}, checkpoint=limit)
    run.wait("the warning", lambda: run.events("StopRequested"))
    assert run.events("StopRequested")[0]["why"] == "time_limit"
    run.wait("the requeue", lambda: run.actions("Requeue"))
    (name,) = run.durable()  # before the script ended
    stopped = re.search(r"^stopped step (\d+) ", run.rank_log(0, 0), re.MULTILINE)
    assert stopped, run.story()
    assert int(name.split("-")[0]) == int(stopped[1]) > 0
    told = [each for each in history(run) if each["generation"] == name]
    assert [each["state"] for each in told] == ["local", "durable"]
    hurry(run)
    run.wait("the second attempt", lambda: len(run.restored_steps()) == 2)
    assert run.restored_steps() == [0, int(stopped[1])]
