"""`ftslurm checkpoint prune`: delete by rules, now."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.progress import waiting
from ftslurm.cli.storearg import (
    Store,
    dry_run_option,
    duration_of,
    force_option,
    json_option,
    print_json,
    refuse_if_alive,
    store_argument,
    store_of,
)
from ftslurm.quantities import short_size

if TYPE_CHECKING:
    from ftslurm.core.retention import Rules

EXAMPLES = """\b
Examples:
  ftslurm checkpoint prune 4711 --dry-run                 # by the rules of the run's configuration
  ftslurm checkpoint prune 4711 --keep-last 2
  ftslurm checkpoint prune 4711 --keep-last 1 --keep-best 3 --metric loss
  ftslurm checkpoint prune 4711 --abandoned               # also what a rollback has left behind
\b
Always kept: the newest, what has a tag, what differential checkpoints refer to.
"""


@click.command(epilog=EXAMPLES)
@store_argument
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the newest N.")
@click.option("--keep-best", type=click.IntRange(min=0), metavar="N", help="Keep the best N by --metric.")
@click.option("--metric", default="", help="What the program reports with its steps, as loss.")
@click.option("--mode", type=click.Choice(["min", "max"]), default="min", show_default=True, help="What best means.")
@click.option("--keep-every", type=click.IntRange(min=1), metavar="STEPS", help="Keep one in so many steps.")
@click.option("--max-age", metavar="TIME", callback=duration_of, help="Keep those younger than this, as in 7d.")
@click.option("--abandoned", is_flag=True, help="Delete abandoned branches, too.")
@dry_run_option
@force_option
@json_option
def prune(run_or_job: str, *, dry_run: bool, force: bool, as_json: bool, abandoned: bool, **wanted: Any) -> None:  # noqa: ANN401 - click's values
    """Delete the durable checkpoints of RUN_OR_JOB that no rule keeps: those given here, else the run's own.

    A run that is alive prunes itself, and is refused here (exit code 75).
    """
    from ftslurm.checkpoint import retention

    store, now = store_of(run_or_job), time.time()
    rules = replace(_rules(store, wanted), abandoned=not abandoned)
    if not dry_run:
        refuse_if_alive(store, force=force)
    config = store.config
    manage = config is not None and config.checkpoint.manage
    with waiting("deleting checkpoints", quiet=as_json) as wait:
        seen = retention.foresee(store.root, rules, (), now)
        deleted = seen.go if dry_run else retention.carry_out(store.root, seen.go, manage=manage, count=wait)
    if as_json:
        told = {"deleted": list(deleted), "freed_bytes": seen.freed_bytes, "kept": dict(seen.stay), "dry_run": dry_run}
        print_json({"store": str(store.root), **told})
        return
    for name in deleted:
        click.echo(f"{'would delete' if dry_run else 'deleted'} {name}")
    click.echo(f"{len(deleted)} of {len(deleted) + len(seen.stay)}, {short_size(seen.freed_bytes)}", err=True)
    if dry_run:
        for name, reason in sorted(seen.stay.items()):
            click.echo(f"keeps {name}: {reason}", err=True)


def _rules(store: Store, wanted: dict[str, Any]) -> Rules:
    """The rules of the call, or else those of the run."""
    from ftslurm.core.retention import Rules
    from ftslurm.errors import UsageError
    from ftslurm.runtime.settings import keep_of

    if bool(wanted["metric"]) != bool(wanted["keep_best"]):
        raise UsageError("--keep-best and --metric need each other")
    if any(wanted[name] is not None for name in ("keep_last", "keep_best", "keep_every", "max_age")):
        return Rules(
            last=wanted["keep_last"] or 1,
            best=wanted["keep_best"] or 0,
            metric=wanted["metric"],
            mode=wanted["mode"],
            every_steps=wanted["keep_every"] or 0,
            max_age_s=wanted["max_age"] or 0.0,
        )
    config = store.config
    if config is None:
        raise UsageError(f"{store.root} belongs to no run with rules", hint="say what to keep, as in --keep-last 5")
    return keep_of(config)
