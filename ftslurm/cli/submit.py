"""`ftslurm submit`: a configuration becomes a job."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.origin import begin_from, origin_of
from ftslurm.cli.ownsubmit import OwnScript
from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftslurm.config import Config
    from ftslurm.paths import RunPaths
    from ftslurm.siteprofile import Taken
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.records import JobInfo
    from ftslurm.slurm.script import JobRequest

WAIT_POLL_S = 2.0
SLOW_POLL_S = 10.0
EXAMPLES = """\b
Examples:
  ftslurm submit train.yaml
  ftslurm submit train.yaml --dry-run                 # print the script, submit nothing
  ftslurm submit train.yaml --test-only               # ask Slurm when it would start
  ftslurm submit train.yaml -- --qos=high --reservation=ft
  ftslurm submit train.yaml --exclude='n[3,7]'        # besides the lemons of the node ledger (`ftslurm nodes`)
  job=$(ftslurm submit train.yaml --parsable)
  ftslurm submit train.yaml --wait && echo trained
  ftslurm submit finetune.yaml --init-from 4711@best  # begins from a checkpoint of another run
  ftslurm submit --from train.sbatch                  # your own script, with `ftslurm run` for srun
  ftslurm submit --from train.sbatch --dry-run -- --time=2:00:00 -- --epochs 3
\b
With --from a batch script of your own is submitted, untouched, in which you have written `ftslurm run` for the word
srun. What survival needs is added on sbatch's command line, and said. The script's arguments stand behind a second --.
"""


@click.command(cls=OwnScript, epilog=EXAMPLES)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.argument("sbatch_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--from", "script", type=click.Path(path_type=Path), help="Your own batch script, instead of a FILE.")
@click.option("-x", "--exclude", default="", metavar="NODES", help="Nodes to leave out, as in n[3,7].")
@click.option("--no-ledger", is_flag=True, help="Leave no node out for the node ledger's sake.")
@click.option("--dry-run", is_flag=True, help="Print the batch script and submit nothing.")
@click.option("--test-only", is_flag=True, help="Ask Slurm whether and when the job would start.")
@click.option("--wait", is_flag=True, help="Return when the run has ended, with its exit code.")
@click.option("--parsable", is_flag=True, help="Print the job id only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option(
    "--init-from", metavar="RUN[@TAG]", help="Begin from a checkpoint of another run, or of a store's folder; latest."
)
@click.option("--run-root", type=click.Path(path_type=Path), help="Folder for the run's folder; beats the file.")
def submit(
    file: Path,
    sbatch_options: tuple[str, ...],
    *,
    exclude: str,
    no_ledger: bool,
    dry_run: bool,
    test_only: bool,
    wait: bool,
    parsable: bool,
    as_json: bool,
    init_from: str | None,
    run_root: Path | None,
) -> int:
    """Submit the run that FILE describes. Options after -- go to sbatch, and beat those of the file."""
    from ftslurm import siteprofile, submission, time_limit
    from ftslurm.slurm.client import SlurmClient

    config, taken, root = _settled(client := SlurmClient(), file, run_root)
    if not (parsable or as_json):
        _announce(config, taken.remarks)
    out = _left_out(client, config, root, exclude, use_ledger=not no_ledger)
    origin = None if init_from is None else origin_of(init_from, config)
    if dry_run or test_only:
        _show(client, replace(submission.preview(config, root, sbatch_options), exclude=out), test_only=not dry_run)
        click.echo(f"# {time_limit.outlook(config)}", err=True)
        _show_steps(config, said=dry_run)
        return 0
    paths = submission.prepare(config, file, root)
    siteprofile.keep(paths, taken)
    if origin is not None:
        begin_from(origin, config, paths)
    request = replace(submission.request_of(config, paths, sbatch_options), exclude=out)
    with waiting("submitting", quiet=as_json):
        jobs = (job_id := send(client, paths, request), *follow(client, paths, config, job_id))
    _report(jobs, paths, config, parsable=parsable, as_json=as_json)
    return wait_for(client, paths, job_id, quiet=as_json) if wait else 0


def _settled(client: SlurmClient, file: Path, run_root: Path | None) -> tuple[Config, Taken, Path]:
    """The configuration with what the site profile knows better, what was taken from it, and the run root."""
    from ftslurm import siteprofile, submission
    from ftslurm.config import load

    written = load(file)
    taken = siteprofile.for_submission(written, client)
    config = siteprofile.tuned(written, taken.values)
    return config, taken, submission.run_root_of(config, run_root, profile=taken.run_root, script=file)


def _announce(config: Config, remarks: Sequence[str]) -> None:
    """Say what the site has filled in, whether a refused checkpoint can be loaded, and what a smaller world means."""
    from ftslurm.runtime.settings import handover_notes, smaller_worlds

    for remark in (*remarks, *handover_notes(config)):
        click.echo(f"# {remark}", err=True)
    for sentence in smaller_worlds(config):
        click.echo(f"ftslurm: {sentence}", err=True)


def _left_out(client: SlurmClient, config: Config, root: Path, exclude: str, *, use_ledger: bool) -> tuple[str, ...]:
    """The nodes that the job is not given; what the node ledger excludes is said on stderr."""
    from ftslurm import exclusion
    from ftslurm.paths import ledger_of

    given = exclusion.names(exclude)
    if not use_ledger:
        return given
    nodes = config.resources.nodes[1] + config.recovery.spares
    wanted = exclusion.Wanted(nodes=nodes, partition=config.resources.partition, given=given)
    found = exclusion.by_ledger(client, ledger_of(root, config.recovery.ledger), wanted)
    for note in found.notes:
        click.echo(f"ftslurm: {note}", err=True)
    return found.nodes


def _show(client: SlurmClient, request: JobRequest, *, test_only: bool) -> None:
    """Print the script, or what Slurm says of it."""
    import shlex

    from ftslurm import submission
    from ftslurm.slurm.script import render

    script, options = render(request), submission.command_line(request)
    if test_only:
        click.echo(client.test_only(script, options).text)
        return
    click.echo(script, nl=False)
    if options:
        click.echo(f"# submitted with: sbatch {shlex.join(options)} SCRIPT", err=True)


def _show_steps(config: Config, *, said: bool) -> None:
    """Print the command lines by which the job will start the ranks."""
    from ftslurm.runtime.steps import preview
    from ftslurm.submission import DRY_RUN_ID

    for line in preview(config, f"{config.name}-{DRY_RUN_ID}") if said else ():
        click.echo(f"# {line}", err=True)


def send(client: SlurmClient, paths: RunPaths, request: JobRequest) -> str:
    """Submit; a run that Slurm refuses leaves no folder behind."""
    from ftslurm import runs, submission
    from ftslurm.errors import FtslurmError, ServiceUnavailable
    from ftslurm.slurm.client import NotStarted

    try:
        job_id = client.submit(submission.write_script(paths, request), submission.command_line(request))
    except NotStarted:
        submission.discard(paths)
        raise
    except ServiceUnavailable as error:
        # The job may exist nevertheless (the answer was lost): its comment names the run.
        raise ServiceUnavailable(
            str(error), hint=f"the run's folder {paths.root} is kept; see `squeue --me`"
        ) from error
    except FtslurmError:
        submission.discard(paths)
        raise
    runs.link_job(paths, job_id.partition(";")[0])
    return job_id.partition(";")[0]


def follow(client: SlurmClient, paths: RunPaths, config: Config, first: str) -> tuple[str, ...]:
    """Submit the other jobs of a chain; a chain that Slurm cut short is one all the same, and that is said."""
    from ftslurm import chains, runs, submission

    count, how = config.recovery.chain, submission.again(paths)
    if not count or how is None:
        return ()
    jobs, problem = chains.follow(client, *how, first, count)
    for job in jobs:
        runs.link_job(paths, job)
    if problem:
        text = f"the chain has {len(jobs) + 1} of {count} jobs, Slurm took no more: {problem}"
        click.echo(f"ftslurm: {text}; `ftslurm resume {first}` continues the run when they are over", err=True)
    return jobs


def words_of(jobs: tuple[str, ...]) -> str:
    """What sbatch says; and the jobs that wait for the first one."""
    later = f", and after it {', '.join(jobs[1:])}" if len(jobs) > 1 else ""
    return f"Submitted batch job {jobs[0]}{later}"


def _report(jobs: tuple[str, ...], paths: RunPaths, config: Config, *, parsable: bool, as_json: bool) -> None:
    import json

    from ftslurm import time_limit
    from ftslurm.runtime.settings import handover_notes, smaller_worlds

    job_id, limit = jobs[0], time_limit.outlook(config)
    if as_json:
        told = {"job_id": job_id, "job_ids": list(jobs), "run_id": paths.run_id, "run_dir": str(paths.root)}
        said = {"time_limit": limit, "smaller_worlds": smaller_worlds(config), "notes": handover_notes(config)}
        click.echo(json.dumps({"meta": {"schema": 1}, **told, **said}))
    elif parsable:
        click.echo(job_id)
    else:
        click.echo(words_of(jobs))
        click.echo(f"run {paths.run_id}; follow it with: ftslurm status {job_id}   ftslurm logs -f {job_id}", err=True)
        click.echo(limit, err=True)


def hurry(client: SlurmClient, info: JobInfo) -> None:
    """Start a requeued job soon instead of two minutes later, which its owner may do once it is pending again."""
    from ftslurm.errors import FtslurmError
    from ftslurm.slurm.client import JobField
    from ftslurm.slurm.records import SOON

    if not info.restart_count or not info.begins_late(time.time()):
        return
    try:
        client.update_job(info.job_id, JobField.START_TIME, SOON)
    except FtslurmError as error:
        click.echo(f"ftslurm: the requeued job cannot be started earlier: {error}", err=True)


def newest(client: SlurmClient, paths: RunPaths, job_id: str) -> JobInfo:
    """What Slurm says of the job, or of the first one after it that lives: of a chain, or resubmitted."""
    from ftslurm.insight import index

    info = client.job(job_id)
    linked = index.jobs_by_run(paths.root.parent).get(paths.root.resolve(), ())
    if not info.state.is_over or linked[-1:] == (job_id,):
        return info
    later = [each for each in client.jobs(linked).values() if not each.state.is_over]
    return later[0] if later else info


def wait_for(client: SlurmClient, paths: RunPaths, job_id: str, *, after: int = 0, quiet: bool = False) -> int:
    """Wait until the run has ended, or its job has left Slurm for good; returns the run's exit code.

    An end among the first `after` journal entries is that of an earlier job; `quiet`: show no progress.
    """
    from ftslurm.errors import RunFailed, ServiceUnavailable, TryAgain

    pause = WAIT_POLL_S
    gone = 0
    left = f"not waited for any longer; run {paths.run_id} goes on: ftslurm status {job_id}"
    with waiting(f"run {paths.run_id}", quiet=quiet, interrupted=left) as wait:
        while (end := _end_of(paths, after)) is None:
            try:
                info = newest(client, paths, job_id)
                state = info.state
                hurry(client, info)
            except (ServiceUnavailable, TryAgain) as error:
                click.echo(f"ftslurm: {error}; still waiting", err=True)
            else:
                wait.say(f"run {paths.run_id}: job {info.job_id} is {state}")
                # Twice: the journal's last line and Slurm's last word come in any order.
                gone = gone + 1 if state.is_over else 0
                if gone > 2:
                    raise RunFailed(
                        f"job {info.job_id} is {state} and run {paths.run_id} has not ended by its own word",
                        hint=f"`ftslurm explain {job_id}` tells what happened; `ftslurm resume {job_id}` continues it",
                    )
            time.sleep(pause)
            pause = min(pause * 1.2, SLOW_POLL_S)
    return end


def _end_of(paths: RunPaths, after: int) -> int | None:
    """The exit code of a run that has ended since so many journal entries; None for one that has not."""
    from ftslurm import journal
    from ftslurm.core.actions import EndRun
    from ftslurm.core.events import ENDED

    new = (entry for entry in journal.read(paths) if entry.number >= after)
    ends = [action for entry in new for action in entry.actions if isinstance(action, EndRun)]
    return ends[-1].code if ends and ends[-1].phase in ENDED else None
