from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftslurm.lab.cluster import Cluster
from tests.lab.training import LabRun, ddp
from tests.local_ranks import PROGRAMS, run_ranks

pytestmark = pytest.mark.lab

STEPS = 120
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
    """A run whose rank is killed goes on where its checkpoint ends, on the same nodes, to bit-identical weights."""
    run = ddp(lab, name="killed", nodes=3, steps=STEPS)
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    (victim,) = [proc for proc in run.processes("rank") if proc.rank == 1]
    victim.send(signal.SIGKILL)
    assert run.wait_end() == ("finished", 0)
    assert run.job_says() == ("COMPLETED", "0:0")
    assert run.launches() == [run.launches()[0]] * 2
    assert run.restored_steps()[1] >= 20
    assert {lines[1][1] for lines in run.progress().values() if lines[0][-1] == "1"} == {str(run.restored_steps()[1])}
    assert len(run.done()) == 3 and len(set(run.done())) == 1
    assert_identical(run, undisturbed(3))


def test_cut_node_is_left_out(lab: Cluster, undisturbed: Undisturbed) -> None:
    """Without a node the training goes on as it would have gone on with it; what the node still ran is dead by then."""
    run = ddp(lab, name="cut", nodes=4, steps=STEPS)
    run.wait("a committed checkpoint", lambda: run.durable() and run.step_of(0) > 25)
    lab.cut("n3")
    run.wait_step(1, run.step_of(0))
    assert run.launches()[1] == ("n1", "n2", "n4")
    # The dead man's switch: nobody could tell the node that its attempt is over.
    run.wait("end of the old ranks", lambda: not run.processes("rank", "n3"))
    lab.heal("n3")
    assert run.wait_end() == ("finished", 0)
    assert not [proc for proc in run.processes() if proc.attempt is not None]
    assert STEPS - run.restored_steps()[1] >= 50
    ours = loss_of(state_of(run.root / "checkpoints", STEPS), STEPS)
    theirs = loss_of(state_of(undisturbed(4), STEPS), STEPS)
    assert ours == pytest.approx(theirs, rel=1e-5)
