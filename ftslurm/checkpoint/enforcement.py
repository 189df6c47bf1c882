"""Whether a checkpoint that was refused can still be loaded, and what would keep the program from it: for people.

ftslurm names the newest verified checkpoint. A program that looks for the newest one by itself, in a folder that is
only read here, may find another: that must be said before it happens.
"""

from __future__ import annotations

from collections.abc import Sequence

from ftslurm.checkpoint.frameworks.table import FRAMEWORKS
from ftslurm.checkpoint.tracker import name_of


def notes(
    layout: str, command: Sequence[str], resume_args: Sequence[str], *, in_place: bool, manage: bool
) -> tuple[str, ...]:
    """Return what a user must know; nothing where the refusal of a checkpoint holds by itself.

    `resume_args` are appended to the command at a restart. `{step}` is filled in there only, and names a checkpoint of
    the program's own folder as well as a path does, also where there is a tracker file.
    """
    if in_place and any("{step}" in word for word in resume_args):
        return ()
    framework = FRAMEWORKS.get(layout)
    if framework is None and not in_place:
        return ()
    restore_by = framework.restore_by if framework else "path"
    tracked = name_of(framework) if framework else ""
    names = {"path": "{checkpoint}", "tag": "{tag}"}.get(restore_by, "")
    if names and any(names in word for word in (*command, *resume_args)):
        return ()
    if tracked and in_place and manage:
        return ()
    if restore_by == "tracker":
        if not in_place:
            return ()  # the folder that is handed over has a tracker file of ours
        text = f"{layout} follows {tracked} in its folder, whatever ftslurm has refused: refusal is not enforced;"
        return (f"{text} checkpoint.manage: true lets ftslurm rewrite that file",)
    variable = {"path": "FTSLURM_CHECKPOINT", "tag": "FTSLURM_CHECKPOINT_TAG"}[restore_by]
    finds = f"by {tracked}" if tracked else "the newest"
    text = f"nothing in the command or in checkpoint.resume_args holds {names}: a program that does not start from"
    return (f"{text} {variable} but finds {finds} by itself can load a checkpoint that ftslurm has refused",)
