"""`ftslurm plan`: what to expect of a run before it is submitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.planfit import fit
from ftslurm.cli.progress import waiting
from ftslurm.cli.runarg import complete_runs

if TYPE_CHECKING:
    from ftslurm.config import Config
    from ftslurm.plan.inputs import Inputs
    from ftslurm.plan.measured import Measured
    from ftslurm.plan.rates import Rate

EXAMPLES = """\b
Examples:
  ftslurm plan train.yaml                        # the file that `submit` takes; its section plan: says what you know
  ftslurm plan train.yaml --from 101             # with the costs that an earlier run has shown
  ftslurm plan train.yaml --nodes 2048 --rate bad
  ftslurm plan train.yaml --picture ettr.svg     # ETTR against the interval between saves
  ftslurm plan train.yaml --json | jq .time.productive_share.value
  ftslurm plan fit faults.json                   # a failure model from a trace: ftslurm plan fit --help
\b
Every number has its source or assumption beside it. What is neither given, measured nor follows from anything is
assumed and named on stderr; what nobody knows is "unknown", null in JSON.
\b
Exit codes:
  0 told; 2 the file is wrong, or no such run; 65 the journal of the earlier run is damaged; 69 there is nothing to draw
  or to learn from; 73 the picture cannot be written; 74 something cannot be read
"""
_KINDS = (".png", ".svg")


@click.command(epilog=EXAMPLES)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--from", "earlier", metavar="RUN_OR_JOB", shell_complete=complete_runs, help="Costs as this run has shown them."
)
@click.option("--nodes", type=click.IntRange(1, 100_000), help="Nodes; left out: resources.nodes.")
@click.option("--rate", metavar="RATE", help="good, typical, bad, learnt, or a number; left out: plan.rate.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option(
    "--picture", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture, .png or .svg."
)
def forecast(
    config: Path, *, earlier: str | None, nodes: int | None, rate: str | None, as_json: bool, picture: Path | None
) -> None:
    """Say what to expect of the run that CONFIG describes: failures, saves, lost time, spares, jobs, room on disks."""
    from ftslurm.config import load
    from ftslurm.insight.text import terminal_width
    from ftslurm.plan.advice import advise, asked
    from ftslurm.plan.forecast import headline, interval_of, parts
    from ftslurm.plan.inputs import gather
    from ftslurm.plan.models import under_models
    from ftslurm.plan.table import document, text

    loaded = load(config)
    inputs = gather(loaded, _rate(loaded, rate), _measured(earlier), nodes)
    if picture is not None:
        _draw(inputs, picture)
    with waiting("simulating other ways of failing", quiet=as_json):
        simulated = under_models(inputs, interval_of(inputs).seconds)
    told = (*parts(inputs), simulated, *advise(inputs, asked(inputs)))
    if as_json:
        head = {"meta": {"schema": 1}, "name": loaded.name, "says": headline(inputs), "remarks": [*_remarks(inputs)]}
        click.echo(json.dumps({**head, **document(told)}, indent=2, allow_nan=False))
        return
    click.echo(f"{headline(inputs)}\n")
    click.echo(text(told, terminal_width()), nl=False)
    for remark in _remarks(inputs):
        click.echo(f"note: {remark}", err=True)


class FileOrCommand(click.Group):
    """A group whose first word is one of its commands, else a file: `plan CONFIG` and `plan fit TRACE`."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's own
    ) -> click.Context:
        """Let `forecast` have all words under the group's own name, where the first is none of the commands."""
        if args and args[0] in self.commands:
            return super().make_context(info_name, args, parent, **extra)
        return forecast.make_context(info_name, args, parent, **extra)


@click.group(cls=FileOrCommand, commands=[fit])
def plan() -> None:
    """Say what to expect of a run before it is submitted."""


def _rate(config: Config, asked: str | None) -> Rate:
    """The rate that is asked for, else the configuration's."""
    from ftslurm.errors import UsageError
    from ftslurm.plan.inputs import rate_of
    from ftslurm.plan_section import failure_rate

    named: float | str = config.plan.rate
    if asked is not None:
        try:
            named = failure_rate(asked if asked.isalpha() else float(asked))
        except ValueError as error:
            raise UsageError(f"--rate: {error}") from None
    return rate_of(named, "--rate" if asked is not None else "plan.rate") or _learnt(config)


def _learnt(config: Config) -> Rate:
    """The rate that this user's own jobs have met; without accounting there is none."""
    from ftslurm.errors import ServiceUnavailable
    from ftslurm.paths import default_run_root, ledger_of
    from ftslurm.plan.rates import learnt
    from ftslurm.slurm.client import SlurmClient

    root = Path(config.run_root) if config.run_root is not None else default_run_root()
    found = learnt(SlurmClient(), ledger_of(root, config.recovery.ledger))
    if found.rate is None:
        raise ServiceUnavailable(found.reason, hint="give plan.rate: good, typical, bad, or a number of your site's")
    return found.rate


def _measured(earlier: str | None) -> Measured | None:
    from ftslurm import runs
    from ftslurm.plan.measured import measure

    return None if earlier is None else measure(runs.find_run(earlier))


def _remarks(inputs: Inputs) -> tuple[str, ...]:
    """What to know before believing the numbers."""
    from ftslurm.plan.inputs import assumed

    names = assumed(inputs)
    guessed = (f"assumed, and not known: {', '.join(names)}",) if names else ()
    return (*inputs.remarks, *guessed)


def _draw(inputs: Inputs, path: Path) -> None:
    from importlib.util import find_spec

    from ftslurm.errors import CannotCreate, ServiceUnavailable, UsageError
    from ftslurm.report.writing import NO_PICTURES

    if path.suffix not in _KINDS:
        raise UsageError(f"--picture {path}: expected a name that ends with .png or .svg")
    if find_spec("matplotlib") is None:
        raise ServiceUnavailable(NO_PICTURES)
    from ftslurm.report.draw_forecast import picture

    data = picture(inputs, vector=path.suffix == ".svg")
    try:
        path.write_bytes(data)
    except OSError as error:
        raise CannotCreate(f"cannot write {path}: {error.strerror}") from error
