"""Campaigns from their plan to their score: what `ftslurm campaign run` does, once or from cron.

    order = ordered(Path("nightly.yaml"), Request())   # reads, checks, and draws; or takes up what was cut short
    result = run(order, ground, print)

One process at a time works on the campaigns of a name. A campaign that was cut short is gone on with by the next call,
with the schedule that was drawn for it; one that is over is left alone when it is asked for by its id.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftslurm.core.strictjson import encode
from ftslurm.errors import ConfigError, UsageError
from ftslurm.faults import book as books
from ftslurm.faults import hearing, planfile
from ftslurm.faults import schedule as schedules
from ftslurm.faults.book import Book
from ftslurm.faults.catalogue import CATALOGUE
from ftslurm.faults.course import Course, Ground
from ftslurm.faults.deeds import Store
from ftslurm.faults.fault import Need
from ftslurm.faults.planfile import Known, Plan
from ftslurm.faults.schedule import Schedule
from ftslurm.faults.score import Score, score

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the caller says besides the plan: a seed, and an id that the campaign has or is to have.

    `count` hears how many of how many faults were seen to.
    """

    seed: int | None = None
    wanted: str = ""
    count: Callable[[int, int], None] = lambda *_: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a call ended.

    Attributes:
        book: the campaign.
        score: how well it went.
        size: how many faults were drawn.
        ends: its runs belong to it, and have to come to their end.
        why: the campaign is over before its time.
        again: it was over before this call.
    """

    book: Book
    score: Score
    size: int
    ends: bool
    why: str = ""
    again: bool = False

    @property
    def good(self) -> bool:
        """Whether every run ended with the right weights, every fault was noticed, and no node was wronged."""
        found = self.score
        ended = found.finished == found.runs and found.weights.get("equal", 0) == found.runs
        harmless = not found.wrong_exclusions and not found.weights.get("different", 0)
        return harmless and found.recall in (None, 1.0) and (ended or not self.ends)

    def line(self) -> str:
        """The one line for cron's mail."""
        found, name = self.score, f"campaign {self.book.name} {self.book.folder.name}"
        shares = ", ".join(f"{what} {_percent(share)}" for what, share in _shares(found))
        ended = f"over before its time ({self.why})" if self.why else "over already" if self.again else "over"
        weights = f"weights equal in {found.weights.get('equal', 0)} of {found.runs} runs"
        wrong = f"{len(found.wrong_exclusions)} wrong exclusions"
        return f"{name} {ended}: {found.injected} of {self.size} injections, {shares}, {wrong}, {weights}"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        head = {"name": self.book.name, "id": self.book.folder.name, "folder": str(self.book.folder)}
        return {**head, "drawn": self.size, "why": self.why, "good": self.good, "score": self.score.plain()}


def _shares(found: Score) -> tuple[tuple[str, float | None], ...]:
    return ("recall", found.recall), ("right", found.right)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def known() -> Known:
    """What a plan may name."""
    return Known(
        weights={name: fault.weight for name, fault in CATALOGUE.items()},
        destructive=frozenset(name for name, fault in CATALOGUE.items() if Need.YES in fault.needs),
        storage=frozenset(name for name, fault in CATALOGUE.items() if isinstance(fault.deed, Store)),
    )


def drawn(path: Path, plan: Plan, offers: frozenset[Need], seed: int | None) -> Schedule:
    """Draw the schedule of a plan.

    Raises:
        ConfigError: a fault needs what there is not here.
    """
    allowed = offers | {Need.YES}
    weights = planfile.weights_of(plan, known())
    missing = {name: CATALOGUE[name].needs - allowed for name in weights}
    if plan.faults and (wrong := {name: needs for name, needs in missing.items() if needs}):
        told = "; ".join(f"{name} needs {', '.join(sorted(needs))}" for name, needs in sorted(wrong.items()))
        raise ConfigError(f"{path}: faults: {told}", hint="`ftslurm inject --list` shows what each fault needs")
    possible = {name: weight for name, weight in weights.items() if not missing[name]}
    chosen = next((each for each in (seed, plan.seed) if each is not None), secrets.randbits(48))
    return schedules.draw(plan, chosen, possible, path.parent)


def run(path: Path, request: Request, ground_of: Callable[[Plan, Path], Ground], tell: Callable[[str], None]) -> Result:
    """Begin a campaign, or go on with one that was cut short; return when it is over.

    Args:
        path: the plan.
        request: what else the caller says.
        ground_of: where it takes place, from a plan and the file of the configuration to run.
        tell: who hears what happens meanwhile.

    Raises:
        TryAgain: another process works on it.
        RunStopped: the stop file is there.
        FtslurmError: the plan is wrong, or the ground does not hold.
    """
    plan = planfile.load(path, known())
    folder = books.beginnings(plan.name)
    with books.locked(folder):
        book = books.find(folder, request.wanted)
        if book is None:
            book = _begun(folder, path, plan, request, ground_of)
            tell(f"campaign {book.folder} begins")
        elif book.over:
            return Result(book=book, score=scored([book]), size=_schedule(book).size, ends=_ends(plan), again=True)
        else:
            tell(f"campaign {book.folder} goes on")
        plan, schedule = plan_of(book), _schedule(book)
        why = Course(book, plan, schedule, ground_of(plan, book.config), tell, request.count).run()
        found = scored([book])
        books.replace(book.score, encode(found.plain()))
        return Result(book=book, score=found, size=schedule.size, ends=_ends(plan), why=why)


def _begun(folder: Path, path: Path, plan: Plan, request: Request, ground_of: Callable[[Plan, Path], Ground]) -> Book:
    """A new campaign with all that it needs in its folder."""
    texts = {"plan.yaml": path.read_text(encoding="utf-8")}
    config = path.parent / (plan.config or "")
    if plan.config is not None:
        try:
            texts["config.yaml"] = config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {config}: {error}", hint="`config` names a file beside the plan") from error
    schedule = drawn(path, plan, ground_of(plan, config).offers, request.seed)
    return books.fresh(folder, request.wanted, texts, schedules.encoded(schedule))


def plan_of(book: Book) -> Plan:
    """The plan of a campaign as it was when it began."""
    return planfile.load(book.plan, known())


def _ends(plan: Plan) -> bool:
    return plan.targets.lab is not None


def _schedule(book: Book) -> Schedule:
    return schedules.decoded(book.schedule.read_bytes())


def scored(chosen: Sequence[Book], count: Callable[[int, int], None] = lambda *_: None) -> Score:
    """The score of some campaigns taken together, as far as they have come; `count` hears how many runs were read.

    Raises:
        UsageError: there is none.
        DataDamaged: something that was kept cannot be read.
    """
    if not chosen:
        raise UsageError("no campaign to report on", hint="ftslurm campaign run PLAN.yaml")
    cases = []
    for book in chosen:
        plan, undisturbed = plan_of(book), str(book.last("undisturbed").get("digest", ""))
        kept = book.kept()
        for number, paths in enumerate(kept):
            count(number, len(kept))
            cases.append(hearing.case_of(paths, plan.weights, undisturbed))
    began = min((note["t"] for book in chosen for note in book.notes()), default=0.0)
    return score(chosen[-1].name, began, cases, CATALOGUE)


def as_json(value: dict[str, Any]) -> str:
    """One object for programs."""
    return json.dumps({"meta": {"schema": 1}, **value}, indent=2, sort_keys=False)
