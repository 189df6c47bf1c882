"""`ftslurm submit --from`: a user's own script becomes a job that outlives its nodes."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from ftslurm.ownjob import OwnJob
    from ftslurm.ownscript import Addition, Examined
    from ftslurm.slurm.client import SlurmClient

NOT_FOUND = "BASH_FUNC_command_not_found_handle%%"
"""By this name bash takes a function from the environment: the one that it calls for a command that is not on PATH."""

_FIND_US = """() {{
  [ "$1" = ftslurm ] && shift && exec {python} -I -m ftslurm "$@"
  printf '%s: command not found\\n' "$1" >&2
  return 127
}}"""
"""A login shell, or `conda activate`, gives a script another PATH. Bash has forked before: $! stays the run's."""

MAX_SCRIPT_BYTES = 4 * 2**20
"""slurmctld takes no longer ones (max_script_size, by default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The options of the command that are not sbatch's."""

    exclude: str
    no_ledger: bool
    dry_run: bool
    test_only: bool
    wait: bool
    parsable: bool
    as_json: bool
    run_root: Path | None
    init_from: str | None

    @property
    def quiet(self) -> bool:
        """For a program: only what it must know is said."""
        return self.parsable or self.as_json


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


class OwnScript(click.Command):
    """`ftslurm submit`: with --from it is about a script, without it about a FILE."""

    def invoke(self, ctx: click.Context) -> object:
        """Go the way of the script, or leave the command to its own function."""
        from ftslurm.errors import UsageError

        script = ctx.params.pop("script")
        if script is not None:
            file = ctx.params["file"]
            words = (*([str(file)] if file is not None else []), *ctx.params["sbatch_options"])
            wish = Wish(**{each.name: ctx.params[each.name] for each in fields(Wish)})
            return submit_own(script, words, wish)
        if ctx.params["file"] is None:
            raise UsageError("there is nothing to submit", hint="ftslurm submit train.yaml, or --from train.sbatch")
        return super().invoke(ctx)


def submit_own(script: Path, words: Sequence[str], wish: Wish) -> int:
    """Submit `script`; `words` are the user's own for sbatch, and behind a `--` the script's arguments."""
    from ftslurm.slurm.client import SlurmClient

    client = SlurmClient(own_options=True)
    request = _request(script, words, wish, client)
    client = replace(client, environ=request.environ)
    _say(request, wish)
    if wish.dry_run:
        click.echo(json.dumps(_plain(request, None), indent=2) if wish.as_json else request.shown(str(script)))
        return 0
    if wish.test_only:
        click.echo(client.test_only(script, request.options, arguments=request.own.arguments).text)
        return 0
    job_id = send(client, request, script)
    told = json.dumps(_plain(request, job_id)) if wish.as_json else job_id
    click.echo(told if wish.quiet else f"Submitted batch job {job_id}")
    if not wish.quiet:
        click.echo(f"follow it with: ftslurm status {job_id}   ftslurm logs -f {job_id}", err=True)
    return wait_for_job(client, job_id, quiet=wish.quiet) if wish.wait else 0


def send(client: SlurmClient, request: Request, script: Path) -> str:
    """Leave the submission in the run root and submit; returns the job id."""
    from ftslurm import ownjob, runs
    from ftslurm.errors import FtslurmError, ServiceUnavailable
    from ftslurm.slurm import env
    from ftslurm.slurm.client import NotStarted

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
    from ftslurm import paths
    from ftslurm.slurm import env

    names = (env.NO_KILL_MARKER, "FTSLURM_HOME", "FTSLURM_RUN_ROOT", paths.LEDGER, env.CONTINUES)
    return [name for name in names if name in environ]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch: the user's, and what tells `ftslurm run` where it is."""
    from ftslurm import paths
    from ftslurm.slurm import env

    ours = {env.NO_KILL_MARKER: "1", "FTSLURM_HOME": str(paths.home(environ).absolute())}
    if NOT_FOUND not in environ:
        ours[NOT_FOUND] = _FIND_US.format(python=shlex.quote(sys.executable))
    kept = {name: value for name, value in environ.items() if name not in (env.SUBMISSION, env.CONTINUES)}
    for name in ("FTSLURM_RUN_ROOT", paths.LEDGER):
        if kept.get(name):
            ours[name] = str(Path(kept[name]).absolute())
    return {**kept, **ours}


def _request(script: Path, words: Sequence[str], wish: Wish, client: SlurmClient) -> Request:
    from ftslurm import ownscript, submission
    from ftslurm.errors import UsageError
    from ftslurm.ownjob import OwnJob
    from ftslurm.slurm import env

    if wish.init_from is not None:
        raise UsageError(
            "--init-from needs a configuration file", hint="a script's program finds its first state itself"
        )
    text = read_script(script)
    before, behind = _split(words)
    environ = environment(os.environ)
    exported = [*marks_of(environ), env.SUBMISSION]
    seen = ownscript.examine(text.decode("utf-8", "surrogateescape"), before, environ, exported)
    if wish.wait and seen.value("array") is not None:
        raise UsageError("--wait cannot wait for all tasks of an array", hint="`sbatch --wait` can")
    root = submission.run_root_of(None, wish.run_root, profile=_proven_root(client, seen), script=script)
    left_out, notes = _left_out(client, seen, root, wish)
    additions = (*seen.additions, *left_out)
    own = OwnJob(script=str(script.absolute()), options=tuple(before), arguments=tuple(behind), cwd=str(Path.cwd()))
    return Request(own=own, text=text, additions=additions, notes=(*seen.notes, *notes), environ=environ, root=root)


def _proven_root(client: SlurmClient, seen: Examined) -> str:
    """The run root that a probe has proven for the job's partition; Slurm is asked only if there is any profile."""
    from ftslurm import siteprofile
    from ftslurm.paths import site_profiles

    if not any(site_profiles().glob("*.json")):
        return ""
    cluster = client.config().values.get("ClusterName", "")
    return siteprofile.run_root(cluster, seen.value("partition") or "")


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options, and what stands behind a second `--`.

    Raises:
        UsageError: a word among the options can be no value of one: sbatch would take it for the script.
    """
    from ftslurm.errors import UsageError

    place = list(words).index("--") if "--" in words else len(words)
    before = list(words[:place])
    for last, word in zip(["", *before], before, strict=False):
        if not word.startswith(("-", ":")) and (not last.startswith("-") or "=" in last):
            raise UsageError(
                f"{word[:80]!r} is no option for sbatch",
                hint="the script's arguments stand behind a second --: --from SCRIPT -- SBATCH-OPTIONS -- ARGUMENTS",
            )
    return before, list(words[place + 1 :])


def read_script(script: Path) -> bytes:
    """The script's bytes.

    Raises:
        UsageError: it is not there, or too long for Slurm.
    """
    from ftslurm.errors import UsageError

    try:
        with script.open("rb") as file:
            text = file.read(MAX_SCRIPT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {script}: {error.strerror}") from error
    if len(text) > MAX_SCRIPT_BYTES:
        raise UsageError(f"{script} has more than {MAX_SCRIPT_BYTES} bytes: Slurm takes no such script")
    return text


def _left_out(
    client: SlurmClient, seen: Examined, root: Path, wish: Wish
) -> tuple[tuple[Addition, ...], tuple[str, ...]]:
    """The nodes that the job is not given besides those that the script leaves out itself."""
    from ftslurm import exclusion
    from ftslurm.ownscript import Addition
    from ftslurm.paths import ledger_of
    from ftslurm.slurm import nodeset

    given = tuple(dict.fromkeys((*seen.excluded, *exclusion.names(wish.exclude))))
    found = exclusion.Exclusion(nodes=given)
    if not wish.no_ledger:
        wanted = exclusion.Wanted(nodes=seen.most_nodes, partition=seen.value("partition"), given=given)
        found = exclusion.by_ledger(client, ledger_of(root), wanted)
    if set(found.nodes) == set(seen.excluded):
        return (), found.notes
    return (Addition(f"--exclude={nodeset.fold(found.nodes)}", "nodes to leave out"),), found.notes


def _say(request: Request, wish: Wish) -> None:
    """On stderr: what was added and why, and what is strange. Programs hear the latter only."""
    if not wish.quiet:
        for each in request.additions:
            click.echo(f"ftslurm: added {each.option}: {each.why}", err=True)
        names = ", ".join(marks_of(request.environ))
        click.echo(
            f"ftslurm: added to the job's environment: {names}, which `ftslurm run` has to know; and a function by "
            "which bash finds ftslurm where the script's PATH does not lead to it",
            err=True,
        )
    for note in request.notes:
        click.echo(f"ftslurm: {note}", err=True)


def _plain(request: Request, job_id: str | None) -> dict[str, object]:
    return {
        "meta": {"schema": 1},
        "job_id": job_id,
        "script": request.own.script,
        "sbatch": [*request.options, request.own.script, *request.own.arguments],
        "environ": {name: request.environ[name] for name in marks_of(request.environ)},
        "added": [{"option": each.option, "why": each.why} for each in request.additions],
        "notes": list(request.notes),
        "run_root": str(request.root),
    }


def wait_for_job(client: SlurmClient, job_id: str, *, quiet: bool = False) -> int:
    """Wait until the job has left Slurm for good; returns the exit code of its script."""
    from ftslurm.cli.submit import SLOW_POLL_S, WAIT_POLL_S, hurry
    from ftslurm.errors import RunFailed, ServiceUnavailable, TryAgain
    from ftslurm.slurm.records import JobState

    pause, gone = WAIT_POLL_S, 0
    left = f"not waited for any longer; job {job_id} goes on: squeue -j {job_id}"
    with waiting(f"job {job_id}", quiet=quiet, interrupted=left) as wait:
        while True:
            try:
                info = client.job(job_id)
                hurry(client, info)
            except (ServiceUnavailable, TryAgain) as error:
                click.echo(f"ftslurm: {error}; still waiting", err=True)
            else:
                wait.say(f"job {job_id} is {info.state}")
                # Twice: a job that is requeued is over for a moment.
                gone = gone + 1 if info.state.is_over and info.state is not JobState.COMPLETING else 0
                code = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", info.exit_code)
                if gone > 1 and info.state in (JobState.COMPLETED, JobState.FAILED) and code:
                    return int(code[1]) or (128 + int(code[2]) if int(code[2]) else 0)
                if gone > 2:
                    hint = f"`ftslurm explain {job_id}` tells what happened"
                    raise RunFailed(f"job {job_id} is {info.state}", hint=hint)
            time.sleep(pause)
            pause = min(pause * 1.2, SLOW_POLL_S)
