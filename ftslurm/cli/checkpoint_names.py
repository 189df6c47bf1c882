"""`ftslurm checkpoint tag`, `untag` and `rollback`: names for checkpoints, and going back to one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ftslurm.cli.storearg import (
    dry_run_option,
    force_option,
    json_option,
    print_json,
    refuse_if_alive,
    store_argument,
    store_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ftslurm.checkpoint.versions import Version

TAG_EXAMPLES = """\b
Examples:
  ftslurm checkpoint tag 4711 before-lr-change            # the newest durable checkpoint
  ftslurm checkpoint tag 4711 warm --of 5000              # that of a step
  ftslurm checkpoint tag 4711 warm --of best --move       # a tag that exists names another one
"""
UNTAG_EXAMPLES = """\b
Examples:
  ftslurm checkpoint untag 4711 warm
"""
ROLLBACK_EXAMPLES = """\b
Examples:
  ftslurm checkpoint rollback 4711 before-lr-change --dry-run
  ftslurm checkpoint rollback 4711 5000 && ftslurm resume 4711
  ftslurm resume 4711 --from 5000                         # the same in one step
"""


@click.command(epilog=TAG_EXAMPLES)
@store_argument
@click.argument("name")
@click.option("--of", "target", default="latest", help="A step, a tag, best or a generation; left out: latest.")
@click.option("--step", type=click.IntRange(min=0), help="The same as --of STEP.")
@click.option("--move", is_flag=True, help="Let a tag that exists name another checkpoint.")
@json_option
def tag(run_or_job: str, name: str, *, target: str, step: int | None, move: bool, as_json: bool) -> None:
    """Call a durable checkpoint of RUN_OR_JOB by NAME. It is not deleted as long as it has a tag."""
    from ftslurm.checkpoint import versions

    root = store_of(run_or_job).root
    ref = versions.tag(root, name, target if step is None else str(step), time.time(), move=move)
    if as_json:
        print_json({"store": str(root), "tag": ref.name, "generation": ref.generation, "digest": ref.digest})
    else:
        click.echo(f"{ref.name} -> {ref.generation}")


@click.command(epilog=UNTAG_EXAMPLES)
@store_argument
@click.argument("name")
@json_option
def untag(run_or_job: str, name: str, *, as_json: bool) -> None:
    """Take the tag NAME away. The checkpoint stays as long as the rules keep it."""
    from ftslurm.checkpoint import versions

    root = store_of(run_or_job).root
    versions.untag(root, name)
    if as_json:
        print_json({"store": str(root), "untagged": name})


@click.command(epilog=ROLLBACK_EXAMPLES)
@store_argument
@click.argument("to")
@click.option("-m", "--message", default="", help="Why; it is kept with the record.")
@dry_run_option
@force_option
@json_option
def rollback(run_or_job: str, to: str, *, message: str, dry_run: bool, force: bool, as_json: bool) -> None:
    """Let RUN_OR_JOB go on from the checkpoint TO (a step, a tag, best or a generation) when it is resumed.

    Nothing is deleted: newer checkpoints become an abandoned branch, which `latest`, the rules and a resume pass by.
    Going back to one of them later is a rollback, too. A run that is alive is refused (exit code 75).
    """
    from ftslurm.checkpoint import versions

    store = store_of(run_or_job)
    attempt = 0 if dry_run else refuse_if_alive(store, force=force)
    target = versions.find(store.root, to)
    left = versions.left_behind(store.root, target, attempt)
    if not dry_run:
        versions.roll_back(store.root, target, attempt=attempt, now=time.time(), reason=message)
    if as_json:
        told = {"to": target.generation, "digest": target.digest, "abandoned": list(left), "dry_run": dry_run}
        print_json({"store": str(store.root), **told})
    else:
        _say(store.root, target, left, dry_run=dry_run)


def _say(root: Path, target: Version, left: tuple[str, ...], *, dry_run: bool) -> None:
    verb = "would go on" if dry_run else "goes on"
    click.echo(f"{verb} from {target.generation} (step {target.commit.step}) in {root}")
    for name in left:
        click.echo(f"  abandoned: {name}")
