"""`ftslurm resume`: a run that has ended goes on in a new job, in the same folder."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.holding import refuse_if_held
from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import run_argument

if TYPE_CHECKING:
    from ftslurm.checkpoint.store import Scan
    from ftslurm.config import Config
    from ftslurm.insight.summary import Summary
    from ftslurm.ownsubmission import Changes, Request
    from ftslurm.paths import RunPaths
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.script import JobRequest

EXAMPLES = """\b
Examples:
  ftslurm resume 101                                  # a new job, from the newest committed checkpoint
  ftslurm resume 101 --nodes 3 --time 12:00:00
  ftslurm resume 101 --from before-lr-change          # or a step; newer checkpoints become an abandoned branch
  ftslurm resume 101 --dry-run                        # say from where, print the script, submit nothing
  ftslurm resume gpt-small-20260301-1a2b3c -- --qos=high
  job=$(ftslurm resume 101 --parsable)
\b
What is left out: nodes that the run has given up stay excluded, and the lemons of the node ledger (`ftslurm nodes`).
A run that is still alive is never joined.
\b
Exit codes:
  0 submitted (with --wait: the run's own code); 2 no such run, wrong values, or it has finished (see --again);
  65 its journal is damaged, or checkpoints are there and none is intact; 69 Slurm does not answer;
  74 its folder cannot be read; 75 it is alive, or may be; 77 Slurm refuses the job
"""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user allows."""

    nodes: int | None
    time: str | None
    again: bool
    from_start: bool
    force: bool
    exclude: str = ""
    use_ledger: bool = True
    start: str = ""


@click.command(epilog=EXAMPLES)
@run_argument()
@click.argument("sbatch_options", nargs=-1, type=click.UNPROCESSED)
@click.option("-N", "--nodes", type=click.IntRange(min=1), help="Nodes; left out: as configured.")
@click.option("-t", "--time", "time_limit", metavar="TIME", help="Time limit; left out: as configured.")
@click.option("-x", "--exclude", default="", metavar="NODES", help="Further nodes to leave out, as in n[3,7].")
@click.option("--no-ledger", is_flag=True, help="Leave no node out for the node ledger's sake.")
@click.option("--again", is_flag=True, help="Also a run that has finished with success.")
@click.option(
    "--from", "start", default="", metavar="STEP|TAG", help="From this checkpoint; newer ones are left as a branch."
)
@click.option("--from-start", is_flag=True, help="Where there is no checkpoint: begin anew instead of refusing.")
@click.option("--force", is_flag=True, help="Also where nobody knows whether its job still exists. Be sure first.")
@click.option("--dry-run", is_flag=True, help="Print the batch script and submit nothing.")
@click.option("--wait", is_flag=True, help="Return when the run has ended, with its exit code.")
@click.option("--parsable", is_flag=True, help="Print the job id only.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def resume(
    run: str,
    sbatch_options: tuple[str, ...],
    *,
    nodes: int | None,
    time_limit: str | None,
    exclude: str,
    no_ledger: bool,
    again: bool,
    start: str,
    from_start: bool,
    force: bool,
    dry_run: bool,
    wait: bool,
    parsable: bool,
    as_json: bool,
) -> int:
    """Continue a run that failed, was cancelled, ran out of time or was lost. Options after -- go to sbatch."""
    from ftslurm import runs
    from ftslurm.slurm.client import SlurmClient

    allowed = {"again": again, "from_start": from_start, "force": force, "use_ledger": not no_ledger}
    wishes = Wishes(nodes=nodes, time=time_limit, exclude=exclude, start=start, **allowed)
    with waiting("looking at the run and its checkpoints", quiet=as_json):
        plan = prepare(paths := runs.find_run(run), client := SlurmClient(), wishes, sbatch_options)
    for line in plan.notes:
        click.echo(f"ftslurm: {line}", err=True)
    if dry_run:
        plan.show()
        return 0
    if start:
        _roll_back(paths, plan, start)
    from ftslurm.cli.submit import follow, wait_for, words_of

    with waiting("submitting", quiet=as_json):
        jobs = (job_id := _submit(client, paths, plan), *follow(client, paths, plan.config, job_id))
    text = job_id if parsable else words_of(jobs)
    told = {"meta": {"schema": 1}, "job_id": job_id, "job_ids": list(jobs), **plan.plain(paths)}
    click.echo(json.dumps(told, indent=2) if as_json else text)
    return wait_for(client, paths, job_id, after=plan.summary.entries, quiet=as_json) if wait else 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be submitted, and what there is to say about it."""

    request: JobRequest
    config: Config
    summary: Summary
    start: tuple[str, int] | None
    notes: tuple[str, ...]
    store: Path
    own: Request | None = None
    """Where the run began with a script of the user's own: that one again."""

    def show(self) -> None:
        """Print the script, and on stderr what stands on sbatch's command line."""
        from ftslurm import submission
        from ftslurm.slurm.script import render

        if self.own is not None:
            click.echo(self.own.shown(self.own.own.script))
            return
        click.echo(render(self.request), nl=False)
        click.echo(f"# submitted with: sbatch {' '.join(submission.command_line(self.request))} SCRIPT", err=True)

    def plain(self, paths: RunPaths) -> dict[str, object]:
        """For JSON."""
        return {
            "run_id": paths.run_id,
            "run_dir": str(paths.root),
            "checkpoint": {"generation": self.start[0], "step": self.start[1]} if self.start else None,
            "excluded": list(self.request.exclude),
            "notes": list(self.notes),
        }


def prepare(paths: RunPaths, client: SlurmClient, wishes: Wishes, options: tuple[str, ...]) -> Plan:
    """Check that the run may go on, and say how.

    Raises:
        TryAgain: it is alive, or may be.
        UsageError: it has finished, or the wishes do not fit it.
        DataDamaged: no checkpoint of it is intact.
    """
    from ftslurm import journal, ownsubmission, siteprofile, submission, time_limit
    from ftslurm.config import load
    from ftslurm.insight.summary import summarise
    from ftslurm.runtime.settings import checkpoint_of

    config = siteprofile.of_run(load(paths.config), paths)
    summary = summarise(journal.read(paths))
    refuse_if_held(paths, client, summary, force=wishes.force)
    _refuse_if_finished(paths, summary, again=wishes.again)
    start, notes = _start(paths, config, wishes)
    changed = _changed(config, wishes)
    is_own = paths.own_job.exists()
    request = submission.request_of(changed, paths, () if is_own else options, resumed=summary.entries)
    exclude = _still_known(client, summary.excluded)
    if exclude:
        notes.append(f"given up in this run, and excluded: {', '.join(exclude)}")
    exclude, more = _left_out(client, paths, changed, exclude, wishes)
    notes += more
    changes = replace(_for_own(wishes, changed, summary), exclude=exclude, options=options)
    own = ownsubmission.request_of(paths, changes, os.environ)
    if own is not None:
        notes += own.notes
    elif not paths.script.exists():
        notes.append("this run began in your own script: what that did before and after it is not done again")
    notes.append(time_limit.outlook(changed))
    store = Path(checkpoint_of(config, paths).shared)
    request = replace(request, exclude=exclude)
    plan = Plan(request=request, config=changed, summary=summary, start=start, notes=tuple(notes), store=store)
    return replace(plan, own=own)


def _for_own(wishes: Wishes, config: Config, summary: Summary) -> Changes:
    """What is different in a script of the user's own."""
    from ftslurm.ownsubmission import Changes

    ranks = config.resources.ranks_per_node
    return Changes(entries=summary.entries, nodes=wishes.nodes, ranks_per_node=ranks, time=wishes.time)


def _refuse_if_finished(paths: RunPaths, summary: Summary, *, again: bool) -> None:
    from ftslurm.core.events import Phase
    from ftslurm.errors import UsageError

    if summary.phase is Phase.FINISHED and not again:
        raise UsageError(
            f"run {paths.run_id} has finished: {summary.reason} (exit code {summary.code})",
            hint="--again starts its program once more, from the newest checkpoint",
        )


def _roll_back(paths: RunPaths, plan: Plan, name: str) -> None:
    """Leave what is newer than the wanted checkpoint to an abandoned branch."""
    from ftslurm.checkpoint import versions

    target = versions.find(plan.store, name)
    reason = f"resume --from {name}"
    versions.roll_back(plan.store, target, attempt=plan.summary.attempt or 0, now=time.time(), reason=reason)
    click.echo(f"ftslurm: run {paths.run_id} is rolled back to {target.generation}", err=True)


def _start_from(root: Path, name: str) -> tuple[tuple[str, int], list[str]]:
    """The checkpoint that was asked for, and which ones are left behind by that."""
    from ftslurm.checkpoint import versions

    target = versions.find(root, name)
    left = versions.left_behind(root, target)
    notes = [f"starts from the checkpoint of step {target.commit.step} ({target.generation}), verified on the way"]
    if left:
        notes.append(f"left as an abandoned branch, not deleted: {', '.join(left)}")
    return (target.generation, target.commit.step), notes


def _start(paths: RunPaths, config: Config, wishes: Wishes) -> tuple[tuple[str, int] | None, list[str]]:
    """The checkpoint that the supervisor will take first, and what to say about the choice."""
    from ftslurm.checkpoint.store import scan
    from ftslurm.errors import UsageError
    from ftslurm.runtime.settings import checkpoint_of

    spec = checkpoint_of(config, paths)
    if not spec.is_watched:
        if not wishes.from_start:
            raise UsageError(
                "no checkpoints are watched in this run (checkpoint.files is not set), so it would begin anew",
                hint="--from-start starts the program nevertheless; it may know a checkpoint of its own. With"
                " `ftslurm run --checkpoints FOLDER` in a script of your own they are watched from the start",
            )
        return None, ["no checkpoints are watched: the program starts from what it finds itself"]
    if wishes.start:
        return _start_from(Path(spec.shared), wishes.start)
    found = scan(Path(spec.shared))
    notes = [f"checkpoint {each.generation} is refused: {each.reason}" for each in found.refused]
    if not found.generations:
        _no_checkpoint(found, spec.shared, from_start=wishes.from_start)
        return None, [*notes, "there is no checkpoint: the run begins anew"]
    newest = found.generations[-1]
    older = len(found.generations) - 1
    fallback = f"; {older} older to fall back to" if older else "; there is none to fall back to"
    text = (
        f"starts from the checkpoint of step {newest.commit.step} ({newest.generation}), verified on the way{fallback}"
    )
    return (newest.generation, newest.commit.step), [*notes, text]


def _no_checkpoint(found: Scan, shared: str, *, from_start: bool) -> None:
    """Never begin anew silently."""
    from ftslurm.errors import DataDamaged, UsageError

    if from_start:
        return
    if any(each.damaged for each in found.refused):
        reasons = "; ".join(f"{each.generation}: {each.reason}" for each in found.refused)
        raise DataDamaged(
            f"no checkpoint in {shared} is intact ({reasons})",
            hint="`ftslurm checkpoint verify` says more; --from-start begins anew",
        )
    raise UsageError(f"there is no checkpoint in {shared}", hint="--from-start begins the run anew")


def _changed(config: Config, wishes: Wishes) -> Config:
    """The configuration with what was asked for on the command line.

    Raises:
        UsageError: it does not fit the run.
    """
    from ftslurm.errors import UsageError
    from ftslurm.quantities import parse_slurm_time

    resources, recovery = config.resources, config.recovery
    change: dict[str, object] = {}
    if wishes.nodes is not None:
        ranks = wishes.nodes * resources.ranks_per_node
        if not recovery.min_nodes <= wishes.nodes <= resources.nodes[1]:
            span = f"{recovery.min_nodes} to {resources.nodes[1]} nodes"
            raise UsageError(f"--nodes {wishes.nodes} does not fit: the run is for {span}")
        if ranks % recovery.world_multiple_of:
            raise UsageError(f"{ranks} ranks are no multiple of {recovery.world_multiple_of} (world_multiple_of)")
        change["nodes"] = (wishes.nodes, wishes.nodes)
    if wishes.time is not None:
        try:
            change["time"] = parse_slurm_time(wishes.time)
        except ValueError as error:
            raise UsageError(f"--time: {error}") from error
    return config.model_copy(update={"resources": resources.model_copy(update=change)})


def _left_out(
    client: SlurmClient, paths: RunPaths, config: Config, given_up: tuple[str, ...], wishes: Wishes
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All nodes that the job is not given, and what to say about those that are excluded by the node ledger."""
    from ftslurm import exclusion
    from ftslurm.paths import ledger_of

    given = tuple(dict.fromkeys((*given_up, *exclusion.names(wishes.exclude))))
    if not wishes.use_ledger:
        return given, ()
    nodes = config.resources.nodes[1] + config.recovery.spares
    wanted = exclusion.Wanted(nodes=nodes, partition=config.resources.partition, given=given)
    found = exclusion.by_ledger(client, ledger_of(paths.root.parent, config.recovery.ledger), wanted)
    return found.nodes, found.notes


def _still_known(client: SlurmClient, excluded: tuple[str, ...]) -> tuple[str, ...]:
    """One name that Slurm does not know makes it refuse the whole list."""
    unknown = client.unknown_nodes(excluded) if excluded else ()
    return tuple(node for node in excluded if node not in unknown)


def _submit(client: SlurmClient, paths: RunPaths, plan: Plan) -> str:
    """Submit and link the job; of two that were submitted at once the later one gives way.

    Raises:
        TryAgain: somebody else has resumed the run in the same moment.
    """
    from ftslurm import ownsubmission, runs
    from ftslurm.errors import TryAgain
    from ftslurm.runtime.stopfile import withdraw

    for who in withdraw(paths.stops):
        click.echo(f"ftslurm: {who} had asked the run to stop when it had ended: not obeyed any more", err=True)
    own = plan.own
    job_id = ownsubmission.submit(client, paths, own) if own is not None else _send(client, paths, plan.request)
    others = [other for other in client.find_submitted(paths.run_id) if other != job_id]
    if any(int(other) < int(job_id) for other in others):
        client.cancel(job_id)
        raise TryAgain(f"run {paths.run_id} has just been resumed as job {others[0]}; job {job_id} is cancelled")
    runs.link_job(paths, job_id)
    return job_id


def _send(client: SlurmClient, paths: RunPaths, request: JobRequest) -> str:
    """Submit a script that ftslurm writes."""
    from ftslurm import submission
    from ftslurm.errors import FtslurmError, Refused, ServiceUnavailable

    script = submission.write_script(paths, request)
    try:
        return client.submit(script, submission.command_line(request)).partition(";")[0]
    except ServiceUnavailable as error:
        hint = f"the job may exist nevertheless: `squeue --me` shows it, with {paths.run_id} in its comment"
        raise ServiceUnavailable(str(error), hint=hint) from error
    except FtslurmError as error:
        script.unlink()
        if isinstance(error, Refused) and request.exclude:
            asked = f"{request.max_nodes} nodes without {', '.join(request.exclude)} were asked for"
            raise Refused(str(error), hint=f"{asked}; --nodes asks for fewer") from error
        raise
