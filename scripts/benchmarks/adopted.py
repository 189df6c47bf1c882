"""Launch scripts of all shapes as jobs of an ordinary user: put into a folder, submitted, found by their processes.

The scripts are those of tests/data/adoption, each the original with the word `srun` replaced by `ftslurm run`; `place`
there is what stands around them: a training program, and stand-ins for conda, environment modules and accelerate.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faults import DidNotCome, environ_of
from methods import PROGRAM, CannotStart

if TYPE_CHECKING:
    from ftslurm.lab.cluster import Cluster

SHAPES = PROGRAM.parents[1] / "data" / "adoption"
FOLD = {"array": "1"}
"""The task of an array that is broken; all others are fold 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """One script in its folder. `fold` is the part of the work that is broken and watched."""

    shape: str
    folder: Path

    @property
    def fold(self) -> str:
        """Which of the trainings of the script is looked at."""
        return FOLD.get(self.shape, "0")

    def progress(self, fold: str = "") -> Path:
        """The STEP files of a training."""
        return self.folder / f"fold-{fold or self.fold}" / "progress"

    def environ(self) -> dict[str, str]:
        """What the user has in the shell from which the script is submitted."""
        path = f"{self.folder}/bin:{Path(sys.prefix, 'bin')}:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"HOME": str(self.folder), "PATH": path, "MODULESHOME": str(self.folder / "modules")}


def names() -> tuple[str, ...]:
    """All shapes."""
    return tuple(sorted(path.stem for path in SHAPES.glob("*.sbatch")))


def settle(lab: Cluster, shape: str, name: str) -> Adopted:
    """Make the folder of a script, which belongs to the lab's ordinary user."""
    folder = lab.shared / "bench" / name
    folder.parent.mkdir(exist_ok=True)
    os.chown(folder.parent, lab.uid, lab.uid)
    argv = [str(SHAPES / "settle"), shape, str(folder), sys.executable, str(lab.uid)]
    subprocess.run(argv, check=True, timeout=30)
    return Adopted(shape=shape, folder=folder)


def submit(lab: Cluster, script: Adopted) -> str:
    """`ftslurm submit --from` in the script's folder; return the job id."""
    argv = ["env", f"--chdir={script.folder}", "ftslurm", "submit", "--from", "train.sbatch", "--parsable"]
    done = lab.login(argv, user=lab.user, timeout=60, env=script.environ())
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        raise CannotStart(f"{script.shape}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def ranks(script: Adopted) -> dict[int, str]:
    """Process id (as this machine counts) -> node of every rank of the training that is looked at."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_rank(folder, script):
            found[int(folder.name)] = environ_of(folder).get("SLURMD_NODENAME", "")
    return found


def target(script: Adopted) -> tuple[int, str]:
    """A rank on the last node, and that node.

    Raises:
        DidNotCome: there are no ranks.
    """
    there = ranks(script)
    if not there:
        raise DidNotCome("no rank is there")
    pid = max(there, key=lambda pid: there[pid])
    return pid, there[pid]


def _is_rank(folder: Path, script: Adopted) -> bool:
    """True for the interpreter that runs the program itself, not for a launcher that has it among its arguments."""
    try:
        argv = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    except OSError:  # it ended while we looked
        return False
    program = [word for word in argv[1:] if word != "-u"]
    if [Path(word).name for word in program[:1]] != ["train.py"]:
        return False
    fold = program[program.index("--fold") + 1] if "--fold" in program else "0"
    return fold == script.fold and environ_of(folder).get("SLURM_SUBMIT_DIR") == str(script.folder)
