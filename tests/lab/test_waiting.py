"""Commands that take more than a second say at a terminal how much is done: counted by what is really waited for."""

from __future__ import annotations

import re
import sys

import pytest

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import Who
from tests.cli.onterminal import Terminal, terminal
from tests.lab.longer import long_test

pytestmark = pytest.mark.lab


def counts(on: Terminal, total: int) -> bool:
    """Whether so many were counted on the way to the end."""
    return bool(re.search(rf"\b\d of {total}\b", on.shown))


@long_test("a lab, a probe and a demonstration at a terminal")
@pytest.mark.timeout(600)
def test_counts_are_shown_while_it_takes(lab: Cluster, other: Cluster) -> None:
    """Machines of a lab, nodes that have answered a probe, parts of a demonstration."""
    shell = [sys.executable, "-m", "ftslurm", "lab"]
    for argv, total in ((["up", "-n", "2"], 3), (["down", "--purge"], 3)):
        with terminal([*shell, *argv, "--name", other.name]) as on:
            assert on.end() == 0, on.shown
            assert counts(on, total) or argv[0] == "down", on.shown  # which may take less than a second
            assert f"lab {other.name} is {argv[0]}" in on.shown

    def typed(*argv: str) -> list[str]:
        return lab.command("login", ["ftslurm", *argv], Who(user=lab.user, env={"TERM": "xterm-256color"}))

    root = str(lab.layout.home(lab.user))
    for argv, total in ((("doctor", "--probe", "--run-root", root), 2), (("demo", "--run-root", root), 5)):
        with terminal(typed(*argv)) as on:
            on.read(f"of {total}")
            assert on.end() == 0, on.shown
            assert counts(on, total)
