"""Failures of ranks and nodes, and the training that comes out of them: right, on the right nodes, or ended for good.

Where the result is compared with that of an undisturbed run, an ordinary user has submitted it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, await_that, ddp, patient, program, submit, workplace
from tests.local_ranks import PROGRAMS, run_ranks

pytestmark = pytest.mark.lab

STEPS = 240
Undisturbed = Callable[[int], Path]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The checkpoints of a run of N ranks that nothing has happened to, outside of the lab and without ftslurm."""
    known: dict[int, Path] = {}

    def run(size: int) -> Path:
        if size not in known:
            folder = tmp_path_factory.mktemp(f"undisturbed-{size}")
            argv = [PROGRAMS / "ddp_counter.py", "--steps", STEPS, "--every", 20, "--pace", 0]
            assert set(run_ranks([*argv, "--checkpoints", folder], size, folder / "logs").codes) == {0}
            known[size] = folder
        return known[size]

    return run


def state_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights and the momentum in the one checkpoint file of a step below a folder."""
    (path,) = (path for path in folder.rglob(f"step_{step:08d}.pt") if "trash" not in path.parts)
    state = torch.load(path, weights_only=True)
    assert state["step"] == step
    return {**state["model"], "velocity": state["velocity"]}


def loss_of(state: dict[str, torch.Tensor], step: int) -> float:
    """The loss of the neutral loop's model on the global batch of a step, from its weights alone."""
    batch = torch.randn(24, 64, generator=torch.Generator().manual_seed(step))
    hidden = torch.tanh(batch @ state["0.weight"].T + state["0.bias"])
    return float(((hidden @ state["2.weight"].T + state["2.bias"]) - batch).square().mean())


def assert_identical(run: LabRun, folder: Path) -> None:
    """Every committed checkpoint of the run is bit for bit that of the undisturbed one."""
    committed = run.durable()
    assert committed
    for generation in committed:
        step = int(generation.split("-")[0])
        ours, theirs = state_of(run.root / "checkpoints/gen" / generation, step), state_of(folder, step)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), f"{generation} differs"


def test_killed_rank_ends_with_the_same_weights(lab: Cluster, undisturbed: Undisturbed) -> None:
    """A user's run whose rank is killed goes on where its checkpoint ends, on the same nodes, to bit-identical weights."""
    run = ddp(lab, name="killed", nodes=3, steps=STEPS, user=lab.user)
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    (victim,) = [proc for proc in run.processes("rank") if proc.rank == 1]
    victim.send(signal.SIGKILL)
    assert run.wait_end() == ("finished", 0)
    assert run.wait_job() == ("COMPLETED", "0:0")
    assert run.launches() == [run.launches()[0]] * 2
    assert run.restored_steps()[1] >= 20
    assert {lines[1][1] for lines in run.progress().values() if lines[0][-1] == "1"} == {str(run.restored_steps()[1])}
    assert len(run.done()) == 3
    assert len(set(run.done())) == 1
    assert_identical(run, undisturbed(3))


def test_cut_node_is_left_out(lab: Cluster, undisturbed: Undisturbed) -> None:
    """Without a node a user's training goes on as it would have with it; what the node still ran is dead by then."""
    run = ddp(lab, name="cut", nodes=4, steps=STEPS, user=lab.user, observe={"sample_every": "1s"})
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    lab.cut("n3")
    run.wait_step(1, run.step_of(0))
    assert run.launches()[1] == ("n1", "n2", "n4")
    # The dead man's switch: nobody could tell the node that its attempt is over.
    await_that("end of the old ranks", lambda: not run.processes("rank", "n3"), story=run.story)
    lab.heal("n3")
    assert run.wait_end() == ("finished", 0)
    assert not [proc for proc in run.processes() if proc.attempt is not None]
    assert STEPS - run.restored_steps()[1] >= 50
    assert {path.name.split(".")[0] for path in (run.root / "samples").iterdir()} == {"n1", "n2", "n3", "n4"}
    ours = loss_of(state_of(run.root / "checkpoints", STEPS), STEPS)
    theirs = loss_of(state_of(undisturbed(4), STEPS), STEPS)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_frozen_node_wakes_up_to_nothing(lab: Cluster) -> None:
    """A node that only stood still is left out; woken, its ranks end, and what they left is no checkpoint of the run."""
    run = patient(lab, name="frozen", nodes=3)
    lab.freeze("n3")
    run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
    assert run.launches()[1] == ("n1", "n2")
    ranks = {(proc.pid, proc.start) for proc in run.processes("rank", attempt=1)}
    # A complete file, newer than all others, as a rank would leave it that is woken while it saves.
    (place,) = lab.scratch("n3").glob(f"**/{run.run_id}/write")
    (place / "step_09999999.pt").write_text("9999999\n")
    assert run.processes("rank", "n3", attempt=0)
    lab.thaw("n3")
    run.wait("end of the stale ranks", lambda: not run.processes("rank", "n3"))
    assert {(proc.pid, proc.start) for proc in run.processes("rank", attempt=1)} == ranks
    run.wait("checkpoints go on", lambda: run.durable()[-1].endswith("-0001"))
    run.enough()
    assert run.wait_end() == ("finished", 0)
    assert not [name for name in run.durable() if name.startswith("009999999")]
    assert run.durable()[-1].endswith("-0001")
    assert "did not reach shared storage" not in run.said()


def last_seen(run: LabRun, attempt: int) -> float:
    """Watch until ranks of the next attempt are there; return when one of this was alive last, in seconds since boot."""
    seen = [0.0]

    def is_over() -> bool:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if run.processes(attempt=attempt):
            seen.append(now)
        return bool(run.processes("rank", attempt=attempt + 1))

    run.wait("the next attempt", is_over)
    return seen[-1]


def test_no_process_of_an_old_attempt_is_left(lab: Cluster) -> None:
    """Before a rank of the next attempt starts nothing of the last one lives, however it hides; in the end nothing at all."""
    work = workplace(lab, "tree", None)
    run = submit(lab, program("worker_tree", work / "tree", "--steps", 60), name="tree", nodes=2, work=work)
    run.wait("two whole trees", lambda: len(list((work / "tree").glob("attempt-0-*"))) == 8)
    assert len(run.processes("rank", attempt=0)) >= 8
    wrapper = run.only("wrapper", "n2")
    wrapper.send(signal.SIGKILL)  # nobody is left who could tell which processes were the rank's

    gone = last_seen(run, 0)
    first = min(proc.start for proc in run.processes(attempt=1)) / os.sysconf("SC_CLK_TCK")
    assert gone <= first
    assert not run.processes(attempt=0)
    assert run.wait_end() == ("finished", 0)
    await_that("nothing is left", lambda: not run.processes(), 30)
    assert len(list((work / "tree").glob("attempt-1-*"))) == 8


# ------------------------------------------------------------------------------------------------------- crash loops

STUMBLING = """
import os, pathlib, time
folder, path = pathlib.Path(os.environ["FTSLURM_CHECKPOINT_DIR"]), os.environ.get("FTSLURM_CHECKPOINT")
done = int(pathlib.Path(path).read_text()) if path else 0
part = folder / "part"
part.write_text(str(done + 1))
part.replace(folder / f"step_{done + 1}.pt")
time.sleep(2.5)
if done < 3:
    raise RuntimeError("stumbled")
"""


def test_crash_loops_end(lab: Cluster) -> None:
    """A crash is answered by a new attempt as long as there is progress, and by the end of the run where there is none."""
    work = workplace(lab, "crash", None)
    never = ("--steps", 60, "--pace", 0.02)
    exception = program("crash", "--how", "exception", *never)
    once = submit(lab, [*exception, "--marker", str(work / "marker")], name="once", nodes=1)
    twice = submit(lab, [*exception, "--rank", "1"], name="twice", nodes=2)
    (work / "stumbling.py").write_text(STUMBLING)
    argv = [sys.executable, str(work / "stumbling.py")]
    stumbling = submit(lab, argv, name="stumbling", nodes=1, recovery={"no_progress_limit": 2})
    fault = program("crash", "--how", "signal:SIGSEGV", *never)
    fruitless = submit(lab, fault, name="fruitless", nodes=1, recovery={"no_progress_limit": 3})
    many = submit(lab, fault, name="many", nodes=1, recovery={"max_attempts": 2, "no_progress_limit": 9})

    assert once.wait_end() == ("finished", 0)
    assert len(once.launches()) == 2

    assert twice.wait_end() == ("failed", 1)
    assert twice.wait_job() == ("FAILED", "1:0")
    assert len(twice.launches()) == 2
    assert "Traceback (most recent call last)" in twice.output()
    assert "PlannedFailure: failed as planned" in twice.output()

    assert stumbling.wait_end() == ("finished", 0)
    assert stumbling.restored_steps() == [0, 1, 2, 3]

    segfault = 128 + signal.SIGSEGV
    assert fruitless.wait_end() == ("failed", segfault)
    assert len(fruitless.launches()) == 3
    assert "no_progress_limit" in fruitless.output()
    assert many.wait_end() == ("failed", segfault)
    assert len(many.launches()) == 2
    assert "max_attempts" in many.output()


# ----------------------------------------------------------------------------------------- the first in the ranks' order


@pytest.fixture
def batch_on_last(lab: Cluster) -> Iterator[tuple[str, ...]]:
    """Options with which the batch script runs on n3 (sbatch(1), --batch), while the ranks still begin on n1."""
    features = {node: "batch" if node == "n3" else "other" for node in lab.nodes}

    def mark(marks: dict[str, str]) -> None:
        for node, mark in marks.items():
            words = [f"NodeName={node}", f"AvailableFeatures={mark}", f"ActiveFeatures={mark}"]
            done = lab.login(["scontrol", "update", *words], timeout=30)
            assert done.returncode == 0, done.stderr

    mark(features)
    yield ("--constraint=batch|other", "--batch=batch")
    mark(dict.fromkeys(lab.nodes, ""))


def test_first_node_of_the_order_is_lost(lab: Cluster, batch_on_last: tuple[str, ...]) -> None:
    """The node of rank 0 is lost, and programs come back that find their master by any of the three usual ways."""
    ways = ("ddp_counter", "nodelist_master", "port_from_jobid")
    runs = [
        ddp(lab, name=f"first-{way}", nodes=3, steps=10**6, program_name=way, options=batch_on_last) for way in ways
    ]
    for run in runs:
        run.wait("a committed checkpoint", lambda run=run: run.durable() and run.step_of(0) > 25)
        (granted,) = run.events("AllocationGranted")
        assert granted["batch_host"] == "n3"
        assert [proc.node for proc in run.processes("rank") if proc.rank == 0] == ["n1"]
    lab.cut("n1")
    for run in runs:
        run.wait("the next attempt", lambda run=run: len(run.restored_steps()) == 2)
        assert run.launches()[1] == ("n2", "n3")
        assert run.restored_steps()[1] >= 20
        run.wait_step(1, run.restored_steps()[1] + 5)
        assert {lines[0][2] for lines in run.progress().values() if lines[0][-1] == "1"} == {"2"}
