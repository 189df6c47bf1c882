"""`ftslurm simulate`: what a run would lose on a cluster of any size, under any policy, before there is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftslurm.cli.interruption import ended_as_interrupted
from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from ftslurm.plan.replication import Estimate, Result
    from ftslurm.plan.study import Study

EXAMPLES = """\b
Examples:
  ftslurm simulate --example > scenario.yaml          # a scenario to begin with, every key explained
  ftslurm simulate scenario.yaml --dry-run            # the cases, and what the formula expects of them
  ftslurm simulate scenario.yaml
  ftslurm simulate scenario.yaml --picture ettr.svg   # ETTR against what is swept, with 95 % bands
  ftslurm simulate scenario.yaml --seed 7 --replications 1000 --json > result.json
\b
ETTR is the share of the wall time in which the run gets further; GOODPUT the work that it does, as a share of what its
full world does without any loss. The same scenario and seed give the same output, byte for byte, on any number of
processes.
\b
Exit codes:
  0 simulated; 2 the scenario, or its trace, is wrong: each mistake with its line; 74 the picture cannot be written;
  75 a process was killed
"""


@click.command(epilog=EXAMPLES)
@click.argument("scenario", required=False, type=click.Path(path_type=Path))
@click.option("--example", is_flag=True, help="Print a scenario to begin with.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of all that is drawn; beats the scenario's.")
@click.option("--replications", type=click.IntRange(1, 100_000), help="How often each case; beats the scenario's.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes; left out: one for each core that we may use.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw into this file, .svg or .png.")
@click.option("--dry-run", is_flag=True, help="Check the scenario and show its cases; simulate nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def simulate(
    scenario: Path | None,
    *,
    example: bool,
    seed: int | None,
    replications: int | None,
    workers: int | None,
    picture: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Simulate the runs that SCENARIO describes, with the decisions of a live run, and say what they lose."""
    if example:
        from ftslurm.plan.example import EXAMPLE

        click.echo(EXAMPLE, nl=False)
        return
    if scenario is None:
        raise click.UsageError("name a scenario, or say --example to get one")
    from ftslurm.plan.study import load, with_changes

    if picture is not None:
        _check_picture(picture)
    given = {"seed": seed, "replications": replications}
    study = with_changes(load(scenario), {name: value for name, value in given.items() if value is not None})
    if dry_run:
        _preview(study, as_json=as_json)
        return
    results = _simulated(study, workers or len(os.sched_getaffinity(0)))
    if picture is not None:
        _draw(picture, study, results)
    if as_json:
        from ftslurm.plan.telling import document

        _print_json(document(study, results))
    else:
        _print(study, results)


def _check_picture(path: Path) -> None:
    """Before anything is simulated: that may take long."""
    from importlib.util import find_spec

    from ftslurm.errors import StorageError, UsageError

    if not path.parent.is_dir():
        raise StorageError(f"cannot write {path}: there is no folder {path.parent}")
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"{path}: a picture is .svg or .png")
    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib", hint="pip install 'ftslurm[report]'")


def _simulated(study: Study, workers: int) -> tuple[Result, ...]:
    from ftslurm.plan.replication import run

    with ended_as_interrupted(), waiting("simulating") as told:
        return run(study, workers, told)


def _preview(study: Study, *, as_json: bool) -> None:
    from ftslurm.plan.telling import assumptions, preview

    cases = preview(study)
    if as_json:
        _print_json({"cases": cases, "assumptions": list(assumptions(study))})
        return
    rows = [
        (*each["case"].values(), _duration(each["expected_mttf_s"]), _duration(each["interval_s"]),
         f"{each['expected_failures']:.0f}", _ratio(each["formula"]))
        for each in cases
    ]  # fmt: skip
    heading = (*_headings(study), "MTTF", "SAVE EVERY", "FAILURES", "FORMULA")
    _table(heading, rows)
    runs = sum(each["replications"] for each in cases)
    click.echo(f"\n{len(cases)} cases, {runs} runs of {_duration(study.first.span)} would be simulated")
    _print_assumptions(study)


def _print(study: Study, results: Sequence[Result]) -> None:
    from ftslurm.plan.telling import counts, formula

    rows, spent, counted = [], [], []
    for each in results:
        case = [value for _, value in each.case.swept]
        ettr, goodput = (each.estimate(measure) for measure in (lambda one: one.ettr, lambda one: one.goodput))
        rows.append((*case, _duration(each.terms.mttf_s), _duration(each.terms.copies.interval_s), _interval(ettr),
                     _interval(goodput), _ratio(formula(each.terms))))  # fmt: skip
        spent.append((*case, *_shares(each)))
        counted.append((*case, *(f"{value:.1f}" for _, value in counts(each))))
    _table((*_headings(study), "MTTF", "SAVE EVERY", "ETTR", "GOODPUT", "FORMULA"), rows)
    click.echo("\nWhere the time goes, in percent of the wall time")
    _table((*_headings(study), *(name.upper() for name in _names())), spent)
    click.echo("\nWhat happens in one run")
    _table((*_headings(study), *(name.replace("_", " ").upper() for name, _ in counts(results[0]))), counted)
    scenario = study.first
    click.echo(f"\n{scenario.replications} runs a case, seed {scenario.seed}; ± is the mean's 95 % interval")
    _print_assumptions(study)


def _print_assumptions(study: Study) -> None:
    from ftslurm.plan.telling import assumptions

    click.echo("\nAssumed")
    for sentence in assumptions(study):
        click.echo(f"- {sentence}")


def _headings(study: Study) -> list[str]:
    return [key.upper() for key in study.keys]


def _names() -> list[str]:
    from ftslurm.plan.outcome import Loss

    return [each.value for each in Loss]


def _shares(result: Result) -> list[str]:
    from ftslurm.plan.replication import shares

    return [f"{100 * share:.2f}" for share in shares(result.outcomes).values()]


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from ftslurm.cli.storearg import table

    # The last column is as wide as its text: numbers in it stand to the right, too.
    widest = max(len(row[-1]) for row in (heading, *rows))
    lines = table([*heading[:-1], heading[-1].rjust(widest)], [[*row[:-1], row[-1].rjust(widest)] for row in rows],
                  right=range(len(heading)))  # fmt: skip
    click.echo("\n".join(lines))


def _interval(found: Estimate) -> str:
    if found.high is None:
        return f"{found.mean:.4f}"
    return f"{found.mean:.4f} ±{found.high - found.mean:.4f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _duration(seconds: float | None) -> str:
    from ftslurm.insight.text import took

    return "-" if seconds is None or seconds == float("inf") else took(seconds)


def _draw(path: Path, study: Study, results: Sequence[Result]) -> None:
    from ftslurm.errors import StorageError
    from ftslurm.report.draw_simulation import picture

    with waiting("drawing"):
        drawn = picture(study, results, path.suffix)
    try:
        path.write_bytes(drawn)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _print_json(content: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps({"meta": {"schema": 1}, **content}, indent=2, allow_nan=False))
