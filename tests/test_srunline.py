"""The word `srun` replaced by `ftslurm run`: what it was given is understood as srun would have understood it."""

from __future__ import annotations

import shlex

import pytest

from ftslurm.errors import UsageError
from ftslurm.srunline import SrunLine, parse, refusals, split_own

TRAIN = ("python", "train.py", "-n", "3")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("-N4 -n8", {"nodes": 4, "ntasks": 8}),
        ("-N 4 -n 8 -c 2", {"nodes": 4, "ntasks": 8, "cpus_per_task": 2}),
        ("--nodes=2-4 --ntasks-per-node 8", {"nodes": 2, "ntasks_per_node": 8}),
        ("--gpus-per-node=a100:4", {"gpus_per_node": 4}),
        ("-G 8", {"gpus": 8}),
        ("--gpus=a100:8", {"gpus": 8}),
        ("--mpi=pmix -J gpt", {"mpi": "pmix", "job_name": "gpt"}),
        ("--mpi pmix --job-name=gpt", {"mpi": "pmix", "job_name": "gpt"}),
        ("--cpu-bind=none --exclusive -O", {"options": ("--cpu-bind=none", "--exclusive", "-O")}),
        ("--distribution block -m cyclic", {"options": ("--distribution", "block", "-m", "cyclic")}),
        ("--export=ALL,A=b", {"options": ("--export=ALL,A=b",)}),
        ("-K --kill-on-bad-exit=1 -W 0 --wait=5 --no-kill -k --overlap --label --unbuffered", {}),
    ],
)
@pytest.mark.parametrize("dashes", [[], ["--"]])
def test_options_of_srun(line, dashes, expected):
    """Counts and names are taken, answers to failing ranks are dropped, anything else is passed on; the command is whole."""
    assert parse([*shlex.split(line), *dashes, *TRAIN]) == SrunLine(command=TRAIN, **expected)


SET_BY_US = [
    ("-w n1", "nodelist"), ("-wn1", "nodelist"), ("--nodelist=n1", "nodelist"), ("-x n1", "exclude"),
    ("--exclude n1", "exclude"), ("-r 1", "relative"), ("-F file", "nodefile"), ("--nodefile=file", "nodefile"),
    ("-o out", "output"), ("--error=err", "error"), ("-i in", "input"), ("--pty", "pty"), ("--multi-prog", "multi-prog"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "option"), SET_BY_US)
def test_options_that_contradict_supervision(line, option):
    """Who chooses nodes, output or input against the plan is told so by the option's long name; in a file, too."""
    with pytest.raises(UsageError, match=f"--{option} cannot be used here") as raised:
        parse([*shlex.split(line), *TRAIN])
    assert refusals(["--mpi", "-w", "-", "--", *shlex.split(line), "--cpu-bind=none"]) == [str(raised.value)]


@pytest.mark.parametrize("line", ["-N many", "-n", "--nodes=", "--nodes=99999999", "-c1.5"])
def test_counts_that_are_none(line):
    """A count that is no number is refused."""
    with pytest.raises(UsageError, match="not a number"):
        parse(shlex.split(line))


def test_own_options_may_stand_anywhere_before_the_command():
    """Ours are taken out wherever they stand; what follows the command is the program's."""
    words = shlex.split("-N 2 --run-name=a --mpi pmix --run-root /x train --run-name b")
    own, rest = split_own(words)
    assert own == ["--run-name=a", "--run-root", "/x"]
    assert rest == ["-N", "2", "--mpi", "pmix", "train", "--run-name", "b"]
    assert split_own(["-N2", "--", "--run-name", "b"]) == ([], ["-N2", "--", "--run-name", "b"])
