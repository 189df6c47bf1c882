"""A user's own script as a job: what sbatch is given, the first time and when a run in it goes on in another job.

The script is submitted again as it was: by `ftslurm resume`, or by a job that hands its run on (`continue: resubmit`).
The calls of `ftslurm run` in it are then those of the earlier job (`FTSLURM_CONTINUES`): the run that was named goes
on, the script's other runs return at once what they have returned, or go on where they never ended.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ftslurm import ownjob, ownscript, runs
from ftslurm import paths as names
from ftslurm.errors import FtslurmError, ServiceUnavailable, UsageError
from ftslurm.ownjob import OwnJob
from ftslurm.ownscript import Addition, Examined
from ftslurm.paths import RunPaths
from ftslurm.slurm import env, nodeset
from ftslurm.slurm.client import NotStarted, SlurmClient

HOME = "FTSLURM_HOME"
_FOLDERS = (names.RUN_ROOT, names.LEDGER)

NOT_FOUND = "BASH_FUNC_command_not_found_handle%%"
"""By this name bash takes a function from the environment: the one that it calls for a command that is not on PATH."""

_FIND_US = """() {{
  [ "$1" = ftslurm ] && shift && exec {python} -I -m ftslurm "$@"
  printf '%s: command not found\\n' "$1" >&2
  return 127
}}"""
"""A login shell, or `conda activate`, gives a script another PATH. Bash has forked before: $! stays the run's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A job made of a script: what is added, the whole command line, and the environment that sbatch gets."""

    own: OwnJob
    text: bytes
    additions: tuple[Addition, ...]
    notes: tuple[str, ...]
    environ: Mapping[str, str]
    root: Path

    @property
    def options(self) -> list[str]:
        """Everything before the script's name; sbatch takes the last of two that contradict."""
        return [*self.own.options, *(each.option for each in self.additions)]

    def shown(self, script: str) -> str:
        """The command line, as one could type it."""
        marks = [f"{name}={shlex.quote(self.environ[name])}" for name in marks_of(self.environ)]
        return f"{' '.join(marks)} {shlex.join(['sbatch', *self.options, script, *self.own.arguments])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is different this time; None and empty: as it was.

    `entries`: the journal's, by now. `after`: the job that hands the run on, and that the new one waits for.
    """

    entries: int = 0
    nodes: int | None = None
    ranks_per_node: int = 1
    time: str | None = None
    exclude: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    after: str = ""


def request_of(paths: RunPaths, changes: Changes, environ: Mapping[str, str]) -> Request | None:
    """The job that goes on with a run; None where it did not begin with a script of the user's own.

    Raises:
        UsageError: the folder that the script was submitted from is gone; an option contradicts.
    """
    own = ownjob.of_run(paths)
    if own is None:
        return None
    if not Path(own.cwd).is_dir():
        raise UsageError(f"{own.cwd} is not there any more, where the script {own.script} was submitted")
    text = ownjob.text_of(paths)
    own = replace(own, options=(*own.options, *changes.options))
    environ = {**environment(environ), env.CONTINUES: f"{own.calls_of} {paths.run_id} {changes.entries}"}
    exported = [*marks_of(environ), env.SUBMISSION]
    seen = ownscript.examine(text.decode("utf-8", "surrogateescape"), own.options, environ, exported, Path(own.cwd))
    additions = (*seen.additions, *_changed(seen, changes), *_named(paths, own, seen, changes))
    again = f"your script {own.script} is submitted again, as it was: its other runs return what they have returned"
    return Request(
        own=own, text=text, additions=additions, notes=(again, *seen.notes), environ=environ, root=paths.root.parent
    )


def _changed(seen: Examined, changes: Changes) -> Iterator[Addition]:
    if changes.nodes is not None:
        yield Addition(f"--nodes={changes.nodes}", "as you ask")
        if seen.value("ntasks") is not None:
            yield Addition(f"--ntasks={changes.nodes * changes.ranks_per_node}", "so many ranks are on these nodes")
    if changes.time is not None:
        yield Addition(f"--time={changes.time}", "as you ask")
    exclude = tuple(dict.fromkeys((*seen.excluded, *changes.exclude)))
    if set(exclude) != set(seen.excluded):
        yield Addition(f"--exclude={nodeset.fold(exclude)}", "nodes to leave out")
    if changes.after:
        yield Addition(f"--dependency=afterany:{changes.after}", "when this job is over")


def _named(paths: RunPaths, own: OwnJob, seen: Examined, changes: Changes) -> Iterator[Addition]:
    """How Slurm and people know the job again."""
    task = re.fullmatch(r"[0-9]+_([0-9]+)", own.calls_of)
    if task:
        yield Addition(f"--array={task[1]}", "the task that goes on")
    comment = seen.value("comment")
    if comment is None:
        yield Addition(f"--comment={json.dumps({'ftslurm': paths.run_id}, separators=(',', ':'))}", "names the run")
    elif changes.after:
        # Whoever submits it must find it again, if Slurm's answer is lost.
        yield Addition(f"--comment={comment} ftslurm={paths.run_id}", "as you wrote it, and names the run")
    if seen.value("job-name") is None:
        yield Addition(f"--job-name={Path(own.script).name}", "as the script is called")


def submit(client: SlurmClient, paths: RunPaths, request: Request) -> str:
    """Submit the script from the folder in which it was submitted first; returns the job id."""
    return send(_from_its_folder(client, request), request, paths.own_script)


def test_only(client: SlurmClient, paths: RunPaths, request: Request) -> None:
    """Ask Slurm whether it would take the script here.

    Raises:
        FtslurmError: it would not.
    """
    client = replace(_from_its_folder(client, request), environ=request.environ)
    client.test_only(paths.own_script, request.options, arguments=request.own.arguments)


def _from_its_folder(client: SlurmClient, request: Request) -> SlurmClient:
    return replace(client, own_options=True, cwd=Path(request.own.cwd))


def send(client: SlurmClient, request: Request, script: Path) -> str:
    """Leave the submission in the run root and submit; returns the job id."""
    folder = ownjob.leave(request.root, request.own, request.text)
    client = replace(client, environ={**request.environ, env.SUBMISSION: str(folder)})
    try:
        job_id = client.submit(script, request.options, arguments=request.own.arguments).partition(";")[0]
    except NotStarted:
        ownjob.take_back(folder)
        raise
    except ServiceUnavailable as error:
        raise ServiceUnavailable(str(error), hint="the job may exist nevertheless: see `squeue --me`") from error
    except FtslurmError:
        ownjob.take_back(folder)
        raise
    runs.link_submission(request.root, job_id, folder)
    return job_id


def marks_of(environ: Mapping[str, str]) -> list[str]:
    """The variables of ours that a job has to have, as far as they are there."""
    return [name for name in (env.NO_KILL_MARKER, HOME, *_FOLDERS, env.CONTINUES) if name in environ]


def without_marks(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job as its script knows it, without what this job, and its processes of ours, were told."""
    ours = (HOME, *_FOLDERS)
    return {name: value for name, value in environ.items() if not name.startswith("FTSLURM_") or name in ours}


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch: the user's, and what tells `ftslurm run` where it is."""
    ours = {env.NO_KILL_MARKER: "1", HOME: str(names.home(environ).absolute())}
    if NOT_FOUND not in environ:
        ours[NOT_FOUND] = _FIND_US.format(python=shlex.quote(sys.executable))
    kept = {name: value for name, value in environ.items() if name not in (env.SUBMISSION, env.CONTINUES)}
    for name in _FOLDERS:
        if kept.get(name):
            ours[name] = str(Path(kept[name]).absolute())
    return {**kept, **ours}
