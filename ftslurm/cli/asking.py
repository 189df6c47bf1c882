"""Whether the program of a run can be asked for a save at all: asked before somebody waits for one in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftslurm.paths import RunPaths


def refuse_without_way(paths: RunPaths, *, hint: str) -> None:
    """Raise UsageError where the configuration of a run names no way to ask its program for a save."""
    from ftslurm import siteprofile
    from ftslurm.config import load
    from ftslurm.errors import UsageError
    from ftslurm.runtime.settings import asked_by, policy_of

    config = siteprofile.of_run(load(paths.config), paths)
    if policy_of(config).can_ask_to_save:
        return
    saved = config.checkpoint
    why = f"checkpoint.save_on is {asked_by(config)}" if saved.is_watched else "no checkpoints are watched"
    raise UsageError(f"the program of run {paths.run_id} cannot be asked for a save: {why}", hint=hint)
