"""`ftslurm inject`: one fault in one run of one's own, undone when its time is over, with the truth about it kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.interruption import ended_as_interrupted
from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import complete_runs

if TYPE_CHECKING:
    from ftslurm.faults.fault import Fault
    from ftslurm.faults.means import Means, Target
    from ftslurm.faults.own import OwnMeans
    from ftslurm.faults.truth import Injection
    from ftslurm.paths import RunPaths

EXAMPLES = """\b
Examples:
  ftslurm inject --list                               # every fault: what it needs, what is right to follow
  ftslurm inject kill 101                             # SIGKILL for one rank, drawn
  ftslurm inject stop 101 --rank 3 --for 30s          # stopped for 30 s, then continued
  ftslurm inject node-stop 101 --node n2 --seed 7
  ftslurm inject kill-kill 101 --double-at load       # the second rank while all of them load their checkpoint
  ftslurm inject checkpoint-flip 101 --yes            # what cannot be undone needs your word
  ftslurm inject kill 101 --dry-run --json | jq .target
\b
Ctrl-C undoes it, and so does the end of this command in any other way. What was done, to whom and when stands in
RUN_DIR/faults.jsonl, apart from the run's own journal.
\b
Exit codes:
  0 done, and undone where it can be; 2 no such fault, run, rank or node; 69 a node or Slurm does not answer; 74 the
  truth cannot be written, and nothing was done; 75 the run does not train now; 77 it is somebody else's run, or needs
  more than there is
"""


def complete_faults(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of faults."""
    del ctx, param
    from ftslurm.faults.catalogue import CATALOGUE

    return [name for name in CATALOGUE if name.startswith(incomplete)]


@click.command(epilog=EXAMPLES)
@click.argument("fault", required=False, shell_complete=complete_faults)
@click.argument("run", metavar="RUN_OR_JOB", required=False, shell_complete=complete_runs)
@click.option("--node", metavar="NODE", default="", help="The node; left out: drawn among those that fit.")
@click.option("--rank", type=click.IntRange(min=0), help="The rank; left out: drawn.")
@click.option("--for", "lasts", metavar="TIME", help="How long it lasts, as 10s or 2m; left out: as the list says.")
@click.option(
    "--double-at",
    type=click.Choice(["detection", "relaunch", "load"]),
    help="When the second of two faults strikes; left out: as the list says.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draw, to repeat it.")
@click.option("--yes", is_flag=True, help="Do what cannot be undone: damage a checkpoint, requeue, reset a GPU.")
@click.option("--list", "listed", is_flag=True, help="Show all faults and do nothing.")
@click.option("--dry-run", is_flag=True, help="Say what would be done to whom, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def inject(fault: str | None, run: str | None, *, listed: bool, as_json: bool, **asked: Any) -> int:  # noqa: ANN401 - click's options
    """Break a run of your own on purpose, once, to see what follows. --list shows FAULTs.

    An ordinary user can make most of them; the others need root or the lab, and say which fault comes next to them.
    """
    from ftslurm.errors import UsageError

    if listed:
        _show(as_json=as_json)
        return 0
    if fault is None or run is None:
        raise UsageError("which fault, in which run?", hint="ftslurm inject FAULT RUN_OR_JOB, or ftslurm inject --list")
    _inject(fault, run, asked, as_json=as_json)
    return 0


def _inject(name: str, run: str, asked: dict[str, Any], *, as_json: bool) -> None:
    from ftslurm import runs
    from ftslurm.faults.catalogue import by_name, double_at
    from ftslurm.faults.choosing import Wish, choose, placing
    from ftslurm.faults.deeds import Moment
    from ftslurm.faults.inject import refuse

    fault = double_at(by_name(name), Moment(asked["double_at"]) if asked["double_at"] else None)
    paths, lasts_s = runs.find_run(run), _seconds(asked["lasts"])
    means = _means(paths, consent=asked["yes"])
    refuse(fault, means)
    wish = Wish(node=asked["node"], rank=asked["rank"], seed=asked["seed"])
    target = choose(fault, paths, placing(paths), wish)
    if asked["dry_run"]:
        _tell_plan(fault, target, as_json=as_json)
        return
    with ended_as_interrupted():
        done = _make(fault, target, means, lasts_s)
    if as_json:
        from ftslurm.faults.truth import to_json

        told = {"meta": {"schema": 1}, "run_id": paths.run_id, "injection": to_json(done), "expected": _plain(fault)}
        click.echo(json.dumps(told, indent=2))


def _let_pass(what: str, seconds: float) -> None:
    import time

    end = time.monotonic() + seconds
    with waiting(what) as wait:
        while (left := end - time.monotonic()) > 0.0:
            wait(int(seconds - left), int(seconds))
            time.sleep(min(left, 0.5))


def _make(fault: Fault, target: Target, means: Means, lasts_s: float | None) -> Injection:
    """Make it, wait as long as it lasts, undo it; however that ends, it is undone."""
    from ftslurm.faults import inject as acts
    from ftslurm.faults.truth import Truth
    from ftslurm.insight.text import took

    truth = Truth(target.paths)
    with waiting(f"making {fault.name}"):
        done = acts.inject(fault, target, means, truth, lasts_s)
    try:
        _say(f"{fault.name} {_whom(target)}: {done.note}")
        _say(f"right to follow: {fault.expected_action}")
        if fault.undo:
            last_s = lasts_s if lasts_s is not None else fault.lasts_s or 0.0
            _say(f"it lasts {took(last_s)}; Ctrl-C ends it now")
            _let_pass(fault.name, last_s)
    finally:
        mended = acts.undo(done, means, truth)
    if mended.undone_at is not None:
        _say(f"undone: {fault.undo}")
    return mended


def _means(paths: RunPaths, *, consent: bool) -> OwnMeans:
    """The lab's means, where the run lies in a lab on this machine; else those of the run's owner."""
    from ftslurm.faults.own import OwnMeans
    from ftslurm.lab.means import LabMeans, lab_of

    lab = lab_of(paths)
    return LabMeans.of_lab(lab, paths, consent=consent) if lab else OwnMeans.of(paths, consent=consent)


def _seconds(text: str | None) -> float | None:
    from ftslurm.errors import UsageError
    from ftslurm.quantities import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--for: {error}") from error


def _whom(target: Target) -> str:
    from ftslurm.insight.text import visible

    rank = f"of rank {target.rank} " if target.rank is not None else ""
    return visible(f"{rank}on {target.node}" if target.node else "of the run")


def _say(text: str) -> None:
    from ftslurm.insight.text import visible

    click.echo(f"ftslurm inject: {visible(text)}", err=True)


def _tell_plan(fault: Fault, target: Target, *, as_json: bool) -> None:
    if as_json:
        whom = {"node": target.node, "rank": target.rank, "draw": dict(target.draw)}
        told = {"meta": {"schema": 1}, "run_id": target.paths.run_id, "target": whom, "fault": _plain(fault)}
        click.echo(json.dumps(told, indent=2))
        return
    _say(f"{fault.name} {_whom(target)} would be made: {fault.what}")
    _say(f"right to follow: {fault.expected_action}; nothing is done")


# ------------------------------------------------------------------------------------------------------------- the list


def _show(*, as_json: bool) -> None:
    """The catalogue."""
    from ftslurm.faults.catalogue import CATALOGUE

    faults = list(CATALOGUE.values())
    if as_json:
        click.echo(json.dumps({"meta": {"schema": 1}, "faults": [_plain(fault) for fault in faults]}, indent=2))
        return
    rows = [("ROW", "FAULT", "WHERE", "NEEDS", "RIGHT TO FOLLOW", "WHAT"), *map(_row, faults)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join((*cells, row[-1])))


def _row(fault: Fault) -> tuple[str, ...]:
    needs = ",".join(sorted(fault.needs)) or "-"
    return (str(fault.row), fault.name, str(fault.where), needs, str(fault.expected_action), fault.what)


def _plain(fault: Fault) -> dict[str, Any]:
    """A fault for programs."""
    return {
        "name": fault.name,
        "row": fault.row,
        "what": fault.what,
        "where": str(fault.where),
        "needs": sorted(fault.needs),
        "causes": sorted(fault.causes),
        "may_pass": fault.may_pass,
        "costs_node": fault.costs_node,
        "stops_training": fault.stops_training,
        "expected_action": str(fault.expected_action),
        "undo": fault.undo,
        "lasts_s": fault.lasts_s,
        "stand_in": fault.stand_in,
        "no_stand_in": fault.no_stand_in,
        "ranks": fault.ranks,
        "weight": fault.weight,
    }
