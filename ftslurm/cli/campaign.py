"""`ftslurm campaign`: many faults on purpose, drawn by a seed, and the score of what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftslurm.cli.interruption import ended_as_interrupted
from ftslurm.cli.progress import waiting

if TYPE_CHECKING:
    from ftslurm.faults.book import Book
    from ftslurm.faults.course import Ground
    from ftslurm.faults.planfile import Plan
    from ftslurm.faults.score import Score

EXAMPLES = """\b
Examples:
  ftslurm campaign run nightly.yaml --dry-run         # the faults that would be made, and when
  ftslurm campaign run nightly.yaml
  ftslurm campaign report                             # the newest campaign
  ftslurm campaign report ~/.ftslurm/campaigns/nightly --html nightly.html
"""
RUN_EXAMPLES = """\b
Examples:
  ftslurm campaign run nightly.yaml
  ftslurm campaign run nightly.yaml --seed 7 --dry-run
  ftslurm campaign run nightly.yaml --id $(date +%F)  # for cron: once a day, and gone on with if it was cut short
  touch ~/.ftslurm/campaigns/nightly/STOP             # stops it, and every campaign of this name to come
\b
A campaign that was cut short is gone on with. The last line on stdout says how it ended.
\b
Exit codes:
  0 every run ended as it should; 1 something was not noticed, a node was wronged, or weights differ; 2 the plan is
  wrong; 69 the lab or the runs are not there; 75 it is running already; 77 a run is somebody else's; 79 the stop file
"""
REPORT_EXAMPLES = """\b
Examples:
  ftslurm campaign report                             # the newest campaign of all
  ftslurm campaign report ~/.ftslurm/campaigns/nightly # all campaigns of a name, taken together
  ftslurm campaign report --json | jq '.score.recall'
  ftslurm campaign report --save-baseline good.json
  ftslurm campaign report --baseline good.json --html report.html || echo worse
\b
Exit codes:
  0 shown; 1 worse than the baseline; 2 no such campaign; 65 what was kept cannot be read; 73 a file cannot be written
"""


@click.group(epilog=EXAMPLES)
def campaign() -> None:
    """Break runs of your own, or a lab, as a plan says, and keep score."""


@campaign.command(epilog=RUN_EXAMPLES)
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), help="Of all that is drawn; beats the plan's.")
@click.option("--id", "wanted", default="", metavar="ID", help="Name of this campaign; one that is over is left alone.")
@click.option("--dry-run", is_flag=True, help="Show what would be drawn, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def run(plan: Path, *, seed: int | None, wanted: str, dry_run: bool, as_json: bool) -> int:
    """Make the faults of PLAN, one after the other, and say in one line how it ended."""
    from ftslurm.faults import campaign as campaigns
    from ftslurm.faults.campaign import Request

    if dry_run:
        return _show(plan, seed, as_json=as_json)
    with ended_as_interrupted(), waiting(f"campaign {plan.stem}", quiet=as_json) as shown:
        result = campaigns.run(plan, Request(seed=seed, wanted=wanted, count=shown), _ground, _say)
    click.echo(campaigns.as_json({"campaign": result.plain()}) if as_json else result.line())
    return 0 if result.good else 1


def _show(path: Path, seed: int | None, *, as_json: bool) -> int:
    """The schedule as it would be drawn."""
    from dataclasses import asdict

    from ftslurm.faults import campaign as campaigns
    from ftslurm.faults import planfile

    plan = planfile.load(path, campaigns.known())
    schedule = campaigns.drawn(path, plan, _ground(plan, path).offers, seed)
    if as_json:
        click.echo(campaigns.as_json({"schedule": asdict(schedule)}))
        return 0
    for leg in schedule.legs:
        click.echo(f"# seed {schedule.seed}, a fault every {leg.mtbf_s:g} s: {len(leg.draws)} in {plan.duration:g} s")
        for draw in leg.draws:
            click.echo(f"{draw.at:10.3f}  {draw.fault:20}  {draw.pick:.9f}")
    return 0


def _ground(plan: Plan, config: Path) -> Ground:
    """Where the plan's campaign takes place."""
    if plan.targets.lab is not None:
        from ftslurm.faults.campaign import known
        from ftslurm.faults.planfile import on_ill_storage
        from ftslurm.lab.ground import LabGround
        from ftslurm.lab.prerequisites import require_root

        require_root()
        lab, consent, ill = plan.targets.lab, bool(plan.allow), on_ill_storage(plan, known())
        return LabGround(name=lab.name, nodes=lab.nodes, config=config, consent=consent, report=_say, ill_storage=ill)
    from ftslurm.faults.ownruns import OwnRuns

    return OwnRuns(plan.targets.runs, consent=bool(plan.allow))


def _say(text: str) -> None:
    import time

    from ftslurm.insight.text import time_of_day, visible

    click.echo(f"{time_of_day(time.time())} {visible(text)}", err=True)


@campaign.command(epilog=REPORT_EXAMPLES)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option("--baseline", type=click.Path(path_type=Path), help="Say what is worse than this score; exit code 1.")
@click.option("--save-baseline", type=click.Path(path_type=Path), help="Keep the score in this file.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with pictures to this file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def report(
    folders: tuple[Path, ...],
    *,
    baseline: Path | None,
    save_baseline: Path | None,
    html: Path | None,
    as_json: bool,
) -> int:
    """Show the score of a campaign, or of several taken together: the newest, or those in the folders DIR."""
    from ftslurm.faults import campaign as campaigns
    from ftslurm.faults import reporting
    from ftslurm.faults.score import regressions

    chosen = _chosen(folders)
    with waiting("reading campaigns", quiet=as_json) as shown:
        found = campaigns.scored(chosen, shown)
    worse = regressions(found, _baseline(baseline)) if baseline is not None else ()
    past = _past(chosen[-1])
    if html is not None:
        from ftslurm.faults.page import page

        _write(html, page(found, past, worse))
    if save_baseline is not None:
        _write(save_baseline, campaigns.as_json({"score": found.plain()}) + "\n")
    if as_json:
        click.echo(campaigns.as_json({"score": found.plain(), "worse": list(worse)}))
    else:
        click.echo(reporting.text(found, past))
    for sentence in worse:
        click.echo(f"worse than the baseline: {sentence}", err=True)
    return 1 if worse else 0


def _chosen(folders: tuple[Path, ...]) -> list[Book]:
    """The campaigns that are meant.

    Raises:
        UsageError: a folder holds none.
    """
    from ftslurm.errors import UsageError
    from ftslurm.faults.book import Book, books
    from ftslurm.paths import campaigns

    if not folders:
        names = campaigns().iterdir() if campaigns().is_dir() else ()
        known = [book for name in names for book in books(name)]
        newest = sorted(known, key=lambda book: book.schedule.stat().st_mtime_ns)[-1:]
        if not newest:
            raise UsageError(f"no campaign is in {campaigns()}", hint="ftslurm campaign run PLAN.yaml")
        return newest
    found = []
    for folder in folders:
        here = Book(folder.absolute())
        inside = [here] if here.schedule.is_file() else books(folder.absolute())
        if not inside:
            raise UsageError(
                f"{folder} holds no campaign", hint="`ftslurm campaign report` without it shows the newest"
            )
        found += inside
    return found


def _past(book: Book) -> list[Score]:
    """The scores of all campaigns of this name that are over, oldest first."""
    from ftslurm.core.strictjson import decode
    from ftslurm.faults.book import books
    from ftslurm.faults.score import from_plain

    known = [each for each in books(book.folder.parent) if each.over]
    return [from_plain(decode(each.score.read_bytes(), f"{each.score}")) for each in known]


def _baseline(path: Path) -> Score:
    """The score in a file that --save-baseline has written.

    Raises:
        UsageError: it cannot be read.
        DataDamaged: it holds none.
    """
    from ftslurm.core.strictjson import decode, fields_of
    from ftslurm.errors import UsageError
    from ftslurm.faults.score import from_plain

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="--save-baseline writes one") from error
    return from_plain(fields_of(decode(data, str(path)), ("meta", "score"), str(path))["score"])


def _write(path: Path, text: str) -> None:
    from ftslurm.errors import CannotCreate

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotCreate(f"cannot write {path}: {error.strerror}") from error
