"""`ftslurm submit --from`: a user's own script becomes a job that outlives its nodes."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from ftslurm.ownscript import Addition, Examined
    from ftslurm.ownsubmission import Request
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.records import JobInfo

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
    from ftslurm.ownsubmission import send
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


def _request(script: Path, words: Sequence[str], wish: Wish, client: SlurmClient) -> Request:
    from ftslurm import ownscript, submission
    from ftslurm.errors import UsageError
    from ftslurm.ownjob import OwnJob
    from ftslurm.ownsubmission import Request, environment, marks_of
    from ftslurm.slurm import env

    if wish.init_from is not None:
        raise UsageError(
            "--init-from needs a configuration file", hint="a script's program finds its first state itself"
        )
    text = read_script(script)
    before, behind = _split(words)
    environ = environment(os.environ)
    exported = [*marks_of(environ), env.SUBMISSION]
    seen = ownscript.examine(text.decode("utf-8", "surrogateescape"), before, environ, exported, Path.cwd())
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
    from ftslurm.ownsubmission import marks_of

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
    from ftslurm.ownsubmission import marks_of

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
    """Wait until the job has left Slurm for good, or the one that it has handed its runs to; returns its exit code."""
    from ftslurm.cli.submit import SLOW_POLL_S, WAIT_POLL_S, hurry
    from ftslurm.errors import RunFailed, ServiceUnavailable, TryAgain
    from ftslurm.slurm.records import JobState

    pause, gone = WAIT_POLL_S, 0
    left = f"not waited for any longer; job {job_id} goes on: squeue -j {job_id}"
    with waiting(f"job {job_id}", quiet=quiet, interrupted=left) as wait:
        while True:
            try:
                info = _last_of(client, job_id)
                hurry(client, info)
            except (ServiceUnavailable, TryAgain) as error:
                click.echo(f"ftslurm: {error}; still waiting", err=True)
            else:
                wait.say(f"job {info.job_id} is {info.state}")
                # Twice: a job that is requeued is over for a moment.
                gone = gone + 1 if info.state.is_over and info.state is not JobState.COMPLETING else 0
                code = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", info.exit_code)
                if gone > 1 and info.state in (JobState.COMPLETED, JobState.FAILED) and code:
                    return int(code[1]) or (128 + int(code[2]) if int(code[2]) else 0)
                if gone > 2:
                    hint = f"`ftslurm explain {job_id}` tells what happened"
                    raise RunFailed(f"job {info.job_id} is {info.state}", hint=hint)
            time.sleep(pause)
            pause = min(pause * 1.2, SLOW_POLL_S)


def _last_of(client: SlurmClient, job_id: str) -> JobInfo:
    """What Slurm says of the job, or of the newest one of the same run."""
    from ftslurm import runs
    from ftslurm.cli.submit import newest
    from ftslurm.errors import UsageError

    try:
        paths = runs.find_run(job_id)
    except UsageError:  # its script has not called `ftslurm run`, and may never do
        return client.job(job_id)
    return newest(client, paths, job_id)
