"""`--init-from RUN@TAG`: the checkpoint of another run from which a new one begins."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ftslurm.checkpoint.versions import Version
    from ftslurm.config import Config
    from ftslurm.paths import RunPaths


@dataclass(frozen=True, slots=True)
class Origin:
    """A checkpoint in a store."""

    root: Path
    version: Version


def origin_of(text: str, config: Config) -> Origin:
    """The checkpoint that `RUN`, `RUN@TAG`, `FOLDER` or `FOLDER@TAG` names.

    Raises:
        UsageError: there is none; or the new run does not take checkpoints of its kind.
        DataDamaged: its COMMIT is damaged.
    """
    from ftslurm.checkpoint.difference import is_of_library
    from ftslurm.checkpoint.versions import find
    from ftslurm.cli.storearg import store_of
    from ftslurm.errors import UsageError

    run, at, name = text.rpartition("@")
    if not at or Path(text).is_dir():  # a folder's name may hold an @
        run, name = text, "latest"
    root = store_of(run).root
    version = find(root, name)
    saved = config.checkpoint
    if not saved.is_watched:
        raise UsageError("the new run takes no checkpoints", hint="set checkpoint.layout: library, or checkpoint.files")
    if is_of_library(root, version) != saved.in_library:
        kinds = ("files", "library") if saved.in_library else ("library", "files")
        raise UsageError(f"{version.generation} is of the {kinds[0]} layout, the new run is of the {kinds[1]} layout")
    return Origin(root, version)


def begin_from(origin: Origin, config: Config, paths: RunPaths) -> None:
    """Bring the checkpoint into the store of a run that was just made; the run is discarded where that fails."""
    from ftslurm import submission
    from ftslurm.checkpoint.inherit import Heir, inherit
    from ftslurm.errors import FtslurmError
    from ftslurm.runtime.settings import checkpoint_of

    heir = Heir(root=Path(checkpoint_of(config, paths).shared), run_id=paths.run_id, now=time.time())
    try:
        name = inherit(origin.root, origin.version, heir)
    except FtslurmError:
        submission.discard(paths)
        raise
    source = origin.version
    click.echo(f"ftslurm: begins from {source.generation} of run {source.commit.run_id}, here {name}", err=True)
