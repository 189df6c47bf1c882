"""`ftslurm resume` of a run that began with `submit --from`: the user's script is submitted again, as it was.

The calls of `ftslurm run` in it are then those of the earlier job (`FTSLURM_CONTINUES`): the run that was named goes
on, the script's other runs return at once what they have returned, or go on where they never ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ftslurm.cli.ownsubmit import Request, environment, marks_of, send

if TYPE_CHECKING:
    from ftslurm.ownjob import OwnJob
    from ftslurm.ownscript import Addition, Examined
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.client import SlurmClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is different this time; None and empty: as it was. `entries`: the journal's, by now."""

    entries: int = 0
    nodes: int | None = None
    ranks_per_node: int = 1
    time: str | None = None
    exclude: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def request_of(paths: RunPaths, changes: Changes) -> Request | None:
    """The job that goes on with a run; None where it did not begin with a script of the user's own.

    Raises:
        UsageError: the folder that the script was submitted from is gone; an option contradicts.
    """
    from ftslurm import ownjob, ownscript
    from ftslurm.errors import UsageError
    from ftslurm.slurm import env

    own = ownjob.of_run(paths)
    if own is None:
        return None
    if not Path(own.cwd).is_dir():
        raise UsageError(f"{own.cwd} is not there any more, where the script {own.script} was submitted")
    text = ownjob.text_of(paths)
    own = replace(own, options=(*own.options, *changes.options))
    environ = {**environment(os.environ), env.CONTINUES: f"{own.calls_of} {paths.run_id} {changes.entries}"}
    exported = [*marks_of(environ), env.SUBMISSION]
    seen = ownscript.examine(text.decode("utf-8", "surrogateescape"), own.options, environ, exported)
    additions = (*seen.additions, *_changes(paths, own, seen, changes))
    again = f"your script {own.script} is submitted again, as it was: its other runs return what they have returned"
    return Request(
        own=own, text=text, additions=additions, notes=(again, *seen.notes), environ=environ, root=paths.root.parent
    )


def _changes(paths: RunPaths, own: OwnJob, seen: Examined, changes: Changes) -> Sequence[Addition]:
    from ftslurm.ownscript import Addition
    from ftslurm.slurm import nodeset

    wanted: list[tuple[str, str, str]] = []
    if changes.nodes is not None:
        wanted.append(("nodes", str(changes.nodes), "as you ask"))
        if seen.value("ntasks") is not None:
            wanted.append(("ntasks", str(changes.nodes * changes.ranks_per_node), "so many ranks are on these nodes"))
    if changes.time is not None:
        wanted.append(("time", changes.time, "as you ask"))
    exclude = tuple(dict.fromkeys((*seen.excluded, *changes.exclude)))
    if set(exclude) != set(seen.excluded):
        wanted.append(("exclude", nodeset.fold(exclude), "nodes to leave out"))
    task = own.calls_of.partition("_")[2]
    if task:
        wanted.append(("array", task, "the task that goes on"))
    if seen.value("comment") is None:
        wanted.append(("comment", json.dumps({"ftslurm": paths.run_id}, separators=(",", ":")), "names the run"))
    if seen.value("job-name") is None:
        wanted.append(("job-name", Path(own.script).name, "as the script is called"))
    return [Addition(f"--{name}={value}", why) for name, value, why in wanted]


def submit(client: SlurmClient, paths: RunPaths, request: Request) -> str:
    """Submit the script from the folder in which it was submitted first; returns the job id."""
    client = replace(client, own_options=True, cwd=Path(request.own.cwd))
    return send(client, request, paths.own_script)
