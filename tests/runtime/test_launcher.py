from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ftslurm.errors import UsageError
from ftslurm.runtime import launcher
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
