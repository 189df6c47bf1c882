"""What the commands about checkpoints have in common: whose store it is, and how sizes, ages and tables look."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.runarg import run_argument

if TYPE_CHECKING:
    from ftslurm.config import Config
    from ftslurm.paths import RunPaths

store_argument = run_argument("run_or_job")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
force_option = click.option(
    "--force", is_flag=True, help="Also where nobody knows whether the run is alive. Be sure first."
)


@dataclass(frozen=True, slots=True)
class Store:
    """A store, and the run that it belongs to; None where only the store's own folder was named."""

    root: Path
    run: RunPaths | None

    @property
    def config(self) -> Config | None:
        """The run's configuration, as it was resolved; None where there is none."""
        from ftslurm.config import from_resolved

        if self.run is None:
            return None
        try:
            return from_resolved(json.loads(self.run.resolved.read_bytes()))
        except (OSError, ValueError):
            return None


def store_of(run_or_job: str) -> Store:
    """The checkpoint store of a run, or of the store's own folder. Raises UsageError where there is none."""
    from ftslurm.checkpoint.layout import StorePaths
    from ftslurm.runs import find_run

    given = Path(run_or_job)
    if ("/" in run_or_job or run_or_job == ".") and StorePaths(given).run_file.is_file():
        return Store(given, None)
    paths = find_run(run_or_job)
    return Store(_root_of(paths), paths)


def _root_of(paths: RunPaths) -> Path:
    try:
        resolved = json.loads(paths.resolved.read_bytes())
        text = str(resolved["checkpoint"]["shared"])
        places = {"{run_dir}": str(paths.root), "{run_id}": paths.run_id, "{name}": str(resolved["name"])}
    except (OSError, ValueError, KeyError, TypeError):
        return paths.checkpoints
    for word, value in places.items():
        text = text.replace(word, value)
    return Path(text)


def refuse_if_alive(store: Store, *, force: bool) -> int:
    """Raise TryAgain where the run is held by a job; returns its newest attempt, as far as its journal tells (0: none).

    Of a store without a run nobody knows: that is said on stderr.
    """
    from ftslurm import journal
    from ftslurm.cli.holding import refuse_if_held
    from ftslurm.insight.summary import summarise
    from ftslurm.slurm.client import SlurmClient

    if store.run is None:
        click.echo(f"ftslurm: {store.root} belongs to no run: make sure that no program writes to it", err=True)
        return 0
    summary = summarise(journal.read(store.run))
    refuse_if_held(store.run, SlurmClient(), summary, force=force)
    return summary.attempt or 0


def print_json(content: dict[str, Any]) -> None:
    """One object on stdout."""
    click.echo(json.dumps({"meta": {"schema": 1}, **content}, indent=2))


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """Lines with columns as wide as they need to be, the last one as it is; those in `right` are numbers."""
    cells = [heading, *([said(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heading) - 1)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, [*widths, 0], strict=True))
        ).rstrip()
        for line in cells
    ]


def short_age(seconds: float) -> str:
    """The largest unit that fits: 45s, 12m, 3h, 2d. A clock that is behind gives 0s."""
    whole = max(0, int(seconds))
    for unit, worth in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= 2 * worth:
            return f"{whole // worth}{unit}"
    return f"{whole}s"


def said(text: str) -> str:
    """Text from a record, so that nothing in it can act on a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def duration_of(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A duration option in seconds."""
    from ftslurm.quantities import parse_duration

    del ctx, param
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
