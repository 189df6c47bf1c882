from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from ftslurm.errors import UsageError
from ftslurm.runtime import launcher, rings
from ftslurm.runtime.launcher import MARKS, Ranks

ASKED = Ranks(
    run_id="r", attempt=2, nodes=("n1", "n3"), ranks_per_node=2, local_dir="/scratch/x", command=("a b",),
)  # fmt: skip


@pytest.fixture
def inherited(tmp_path: Path) -> Mapping[str, str]:
    """An environment in which both launchers are installed, and Slurm's counts are those of the whole allocation."""
    for name in ("srun", "mpirun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return {"PATH": str(tmp_path), "SLURM_NTASKS": "8", "SLURM_NNODES": "4", "SLURM_MPI_TYPE": "pmix", "A": "b"}


def with_options(inherited: Mapping[str, str], *options: str) -> list[str]:
    """The --export words of the step of an attempt with the user's options, in their order."""
    asked = Ranks(
        run_id="r", attempt=0, nodes=("n1",), ranks_per_node=1, local_dir="/x", command=("a",), options=options,
    )  # fmt: skip
    argv = launcher.ranks("srun", asked, inherited).argv
    at = [index for index, word in enumerate(argv) if word.startswith("--export")]
    return [argv[index + 1] if argv[index] == "--export" else argv[index].removeprefix("--export=") for index in at]


@pytest.mark.parametrize(
    ("options", "exported"),
    [
        ((), "ALL"),
        (("--export=ALL,A=b",), "ALL,A=b"),
        (("--export=NONE",), ",".join(MARKS)),
        (("--export", "NONE"), ",".join(MARKS)),
        (("--export=A,C=d",), ",".join(["A", "C=d", *MARKS])),
    ],
)
def test_an_export_of_the_users_keeps_what_the_wrapper_needs(inherited, options, exported):
    """Whatever the ranks may see of the user's environment, the wrapper knows its run, attempt and place."""
    assert with_options(inherited, *options)[-1] == exported
    assert set(MARKS) <= set(launcher.ranks("srun", ASKED, inherited).environ)


@pytest.mark.parametrize("name", ["srun", "mpirun"])
def test_counts_and_nodes_are_the_plans(inherited, name):
    """Every count is given, nothing is taken from the batch script's environment, and the command is not re-read."""
    step = launcher.ranks(name, ASKED, inherited)
    assert step.argv[0] == name
    assert step.argv[-2:] == ("--", "a b")
    given = set(step.argv)
    wanted = {"srun": {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--nodelist=n[1,3]"}, "mpirun": {"n1:2,n3:2"}}
    assert wanted[name] <= given
    assert step.environ.get("SLURM_NTASKS") is None
    assert step.environ.get("SLURM_NNODES") == {"srun": None, "mpirun": "2"}[name]
    assert step.environ["A"] == "b"
    assert step.environ["FTSLURM_ATTEMPT"] == "2"


def test_a_launcher_that_is_missing_is_named():
    """What is not on PATH is said before anything is started."""
    with pytest.raises(UsageError, match="mpirun is not on PATH"):
        launcher.ranks("mpirun", ASKED, {"PATH": "/nowhere"})


def test_torchrun_is_one_task_a_node(inherited):
    """It gets the cores of all its ranks and every GPU of the node; the wrapper knows for how many ranks it stands."""
    asked = dataclasses.replace(ASKED, starts_ranks=True, cpus_per_rank=12, gpus_per_node=8, mpi="pmix")
    step = launcher.ranks("torchrun", asked, inherited)
    wanted = {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=24", "--gpus-per-node=8"}
    assert step.argv[0] == "srun"
    assert wanted <= set(step.argv)
    assert not [word for word in step.argv if word.startswith(("--mpi", "--gpus-per-task"))]
    assert step.environ["FTSLURM_RANKS_PER_TASK"] == "2"
    assert launcher.ranks("srun", ASKED, inherited).environ["FTSLURM_RANKS_PER_TASK"] == "0"


@pytest.mark.parametrize("name", ["srun", "torchrun"])
def test_binding_is_the_users(inherited, name):
    """No option of ours binds ranks to GPUs or cores; the user's pass word for word, behind ours, where the last counts."""
    options = ("--cpu-bind=mask_cpu:0xff,0xff00", "--gpu-bind", "closest", "-m", "block:cyclic", "--hint=nomultithread")
    step = launcher.ranks(name, dataclasses.replace(ASKED, options=options, gpus_per_node=8), inherited)
    end = step.argv.index("-I") - 1
    assert step.argv[end - len(options) : end] == options
    assert not [word for word in step.argv[: end - len(options)] if "bind" in word or "per-task" in word]


def test_our_own_steps_ask_for_no_gpu(inherited):
    """The ring asks for nothing; the agents share what there is, since they judge it (M24)."""
    ring = rings.step(("n1", "n3"), ("--mpi=pmix",), "/x", {}, inherited)
    assert not [word for word in ring.argv if "gpu" in word or "gres" in word]
    assert "--overlap" in ring.argv
    agents = launcher.agents(("n1", "n3"), "/x", "{}", inherited, gpus=8)
    assert {"--overlap", "--gpus-per-node=8"} <= set(agents.argv)
