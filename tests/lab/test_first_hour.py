"""The first hour of somebody who has an account on a cluster, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from ftslurm.lab.machine import Who
from tests.lab.longer import long_test
from tests.lab.training import await_that, workplace

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parents[2]
FIRST_HOUR_S = 300.0
COMMANDS = ("python3 -m venv ~/ft", "~/ft/bin/pip install .", "~/ft/bin/ftslurm demo")
"""From nothing to a failure that was survived, as `docs/how-to/first-hour.md` has them."""

KEPT = ("~/ft/bin/ftslurm demo --keep", "~/ft/bin/ftslurm status")


def belongings(lab: Cluster) -> set[str]:
    """Everything of the user's in the home folder and on the nodes' own disks."""
    home = lab.layout.home(lab.user)
    places = [home, *(lab.scratch(node) for node in lab.nodes)]
    found = {str(path) for place in places for path in place.rglob("*")}
    for node in lab.nodes:
        found |= {f"{node}:{name}" for name in lab.exec(node, ["find", "/tmp", "-user", lab.user]).stdout.split()}
    return found


def demo(lab: Cluster, *words: str, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
    """Call it as the ordinary user."""
    return lab.login(["ftslurm", "demo", *words], user=lab.user, timeout=timeout, env=env)


@pytest.fixture
def nothing_left(lab: Cluster) -> Iterator[None]:
    """Compare what the user has before and after; empty folders of earlier runs may go."""
    before = belongings(lab)
    yield
    assert belongings(lab) - before == set()
    assert lab.login(["squeue", "--noheader"], timeout=30).stdout == ""


def survived(told: dict[str, Any]) -> None:
    """The outcome is what it should be, by the story's own numbers."""
    found = told["demo"]
    assert found["survived"]
    assert found["weights_equal"]
    assert found["resumed_from"] >= 10
    assert found["final_step"] == found["resumed_from"] + 30
    assert 0 <= found["noticed_s"] <= found["training_again_s"]
    assert told["story"]["phase"] == "finished"
    assert told["story"]["totals"]["incidents"] >= 1


def test_demo_survives_and_leaves_nothing(lab: Cluster, nothing_left: None) -> None:
    """An ordinary user's demonstration loses a rank, goes on from its checkpoint to the right weights, and is gone."""
    done = demo(lab, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    survived(told)
    assert told["demo"]["killed"]["by"] == "srun --overlap"
    assert told["demo"]["killed"]["node"] == "n2"
    for words in (
        "is submitted",
        "attempt 0 trains: 2 ranks on n[1-2]",
        "is killed",
        "attempt 1 trains",
        "left behind: nothing",
    ):
        assert words in done.stderr


@long_test("a demonstration without job steps from the login host, on one node, and one that is interrupted")
def test_demo_in_other_circumstances(lab: Cluster, nothing_left: None) -> None:
    """Without srun here the rank kills itself; one node is enough; Ctrl-C ends and removes all."""
    work = workplace(lab, "demo-bin", lab.user)
    script = '#!/bin/sh\ncase "$*" in *ftslurm.faults.hand*) echo no steps from here >&2; exit 1;; esac\nexec /usr/bin/srun "$@"\n'
    (work / "srun").write_text(script)
    (work / "srun").chmod(0o755)
    done = demo(lab, "--json", "--nodes", "1", PATH=f"{work}:{Path(sys.prefix, 'bin')}:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert "no steps from here" in done.stderr
    told = json.loads(done.stdout)
    survived(told)
    assert told["demo"]["killed"]["by"] == "itself, on request"
    shutil.rmtree(work)
    said = workplace(lab, "demo-said", lab.user) / "said"
    with said.open("w") as file:
        child = lab.popen(
            "login",
            ["timeout", "--signal=INT", "--preserve-status", "600", "ftslurm", "demo"],
            Who(user=lab.user),
            stderr=file,
        )
        await_that("the training", lambda: "attempt 0 trains" in said.read_text())
        (pid,) = lab.login(["pgrep", "-u", lab.user, "-f", "ftslurm demo$"], timeout=30).stdout.split()[-1:]
        lab.login(["kill", "-INT", pid], timeout=30)
        child.wait(120)
    assert "left behind: nothing" in said.read_text()
    shutil.rmtree(said.parent)


@long_test("a run root that the nodes do not see")
def test_demo_where_the_run_root_is_not_shared(lab: Cluster) -> None:
    """A folder of the login host alone: the job ends at once, and that is said with what to do."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # every node of the lab has one of its own
    os.chown(folder, lab.uid, lab.uid)
    try:
        done = demo(lab, "--run-root", str(folder))
        assert list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)
    assert done.returncode == 1
    assert "must be on shared storage" in done.stderr
    assert "left behind: nothing" in done.stderr


@pytest.fixture
def tree(lab: Cluster) -> Iterator[Path]:
    """Give the user a copy of the source tree, and all that pip would fetch from its registry: the lab has no way out."""
    home = lab.layout.home(lab.user)
    before = set(home.iterdir())
    copy, wheels = home / "ftslurm-src", home / "wheels"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--wheel-dir", str(wheels)]
    subprocess.run([*pip, str(REPOSITORY), "hatchling"], timeout=300, check=True)
    for ours in wheels.glob("ftslurm-*.whl"):
        ours.unlink()
    for path in (copy, *copy.rglob("*"), wheels, *wheels.iterdir()):
        os.chown(path, lab.uid, lab.uid)
    yield copy
    for path in set(home.iterdir()) - before:
        shutil.rmtree(path)


@long_test("from a source tree to a failure that was survived, and one that is kept")
def test_first_hour(lab: Cluster, tree: Path) -> None:
    """Three commands of an ordinary user, within five minutes: environment, installation, demonstration."""
    until = time.monotonic() + FIRST_HOUR_S
    env = {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tree.parent / "wheels")}

    def typed(command: str, left: float) -> subprocess.CompletedProcess[str]:
        done = lab.login(["bash", "-c", f"cd {tree} && {command}"], user=lab.user, timeout=left, env=env)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    *_, done = [typed(command, until - time.monotonic()) for command in COMMANDS]
    assert "The run survived:" in done.stdout
    assert "left behind: nothing" in done.stderr
    assert (tree.parent / "ft").stat().st_uid == lab.uid
    assert list(tree.glob("ftslurm-runs/*")) == []
    kept, status = [typed(command, 240) for command in KEPT]
    assert "The run survived:" in kept.stdout
    assert "finished" in status.stdout


def test_the_page_has_these_commands() -> None:
    """What the page tells the reader to type is what is tested."""
    page = (REPOSITORY / "docs" / "how-to" / "first-hour.md").read_text()
    assert [line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ ")] == [*COMMANDS, *KEPT]
