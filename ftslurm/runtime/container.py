"""Ranks in a container: the words that start one, the variables that reach the inside, and the files that it needs.

With the wrapper outside (`boxed`) the container's command stands between the wrapper and the program: the wrapper's
child is the container, which a signal, the fence and the environment reach as any other program. With the wrapper
inside (`wrapper`) the launcher starts the container, and in it the two files of the wrapper from the run's folder, by
the container's own Python. In both cases `ftslurm.training` lies in the run's folder, and PYTHONPATH leads there.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.paths import PRIVATE_FOLDER
from ftslurm.runtime import launcher, rank
from ftslurm.slurm import env

if TYPE_CHECKING:
    from ftslurm.config import Launch
    from ftslurm.paths import RunPaths

PACKAGE = Path(__file__).resolve().parents[1]
LEFT_OUT = ("cli", "doctor", "faults", "insight", "lab", "plan", "runtime", "slurm", "__pycache__")
"""Parts of ftslurm that no training program imports."""

FOLDERS, VOLUMES, VARIABLES = "{folders}", "{volumes}", "{env}"
PYTHONPATH = "PYTHONPATH"
MARKS = {"FTSLURM_RANK": env.RANK}
"""What the wrapper sets by itself -> a variable of the same value: by prefix or option it has to be named, too."""


def inside_folder(paths: RunPaths) -> Path:
    """Where the files for the inside lie."""
    return paths.root / "inside"


def order(launch: Launch, paths: RunPaths, folders: Sequence[str]) -> dict[str, Any] | None:
    """What agents are told about the container; None without one. `folders` are those that the program needs."""
    container = launch.container
    if container is None:
        return None
    outside = not container.is_inside(launch.srun)
    return {
        "command": list(container.command) if outside else [],
        "prefixes": list(container.prefixes) if outside else [],
        "inside": str(inside_folder(paths)),
        "folders": [str(paths.root), *folders],
    }


def boxed(go: dict[str, Any], told: Mapping[str, Any] | None, folders: Iterable[Path] = ()) -> dict[str, Any]:
    """The word for a rank's wrapper with the container in it; `folders` are further ones of this node."""
    if told is None:
        return go
    before = go["env"].get(PYTHONPATH) or os.environ.get(PYTHONPATH, "")
    known = {**go["env"], PYTHONPATH: ":".join(filter(None, (str(told["inside"]), before)))}
    known |= {name: known[source] for name, source in MARKS.items() if source in known}
    prefixed = {f"{prefix}{name}": value for prefix in told["prefixes"] for name, value in known.items()}
    command = _filled(told["command"], tuple(known), _outermost((*map(Path, told["folders"]), *folders)))
    return {**go, "env": known | prefixed, "argv": [*command, *go["argv"]]}


def _outermost(folders: Iterable[Path]) -> list[str]:
    """The folders that lie in none of the others; relative ones are none."""
    paths = [folder for folder in dict.fromkeys(folders) if folder.is_absolute()]
    return [str(path) for path in paths if not any(other in path.parents for other in paths)]


def _filled(command: Sequence[str], names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The container's command with its placeholders filled in; two of them become several words."""
    words: list[str] = []
    for word in command:
        if word == VARIABLES:
            words += [f"--env={name}" for name in names]
        elif word == VOLUMES:
            words += [f"--volume={folder}:{folder}" for folder in folders]
        else:
            words.append(word.replace(FOLDERS, ",".join(folders)))
    return words


def shown(launch: Launch) -> list[str]:
    """What a dry run says of the container, besides the step's command line."""
    container = launch.container
    if container is None:
        return []
    if container.is_inside(launch.srun):
        return [f"each task's wrapper runs by: {shlex.join((*container.command, container.python))}"]
    return [f"each task's command runs in: {shlex.join(container.command)}"]


def wrapper(launch: Launch, paths: RunPaths, folders: Sequence[str]) -> tuple[str, ...]:
    """The words that start a rank's wrapper inside of the container; none where it runs outside, as usual."""
    container = launch.container
    if container is None or not container.is_inside(launch.srun):
        return ()
    names = (*launcher.MARKS, *(name for each in rank.IDENTITY.values() for name in " ".join(each).split()))
    command = _filled(container.command, names, _outermost((paths.root, *map(Path, folders))))
    return (*command, container.python, "-I", "-S", str(inside_folder(paths) / rank.FILES[0]))


def prepare(launch: Launch, paths: RunPaths) -> None:
    """Put the files for the inside into the run's folder, once.

    Raises:
        OSError: the folder cannot be written.
    """
    target = inside_folder(paths)
    if launch.container is None or target.is_dir():
        return
    part = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=PRIVATE_FOLDER)
    for name in rank.FILES:
        shutil.copyfile(PACKAGE / "runtime" / name, part / name)
    shutil.copytree(PACKAGE, part / PACKAGE.name, ignore=shutil.ignore_patterns(*LEFT_OUT, "*.pyc"))
    try:
        part.rename(target)
    except OSError:
        if not target.is_dir():  # another supervisor was quicker
            raise
        shutil.rmtree(part, ignore_errors=True)
