"""The course of a campaign: runs are begun, hit as the schedule says, and seen off; all is written into the book.

Two paces. *settled*: the time between two faults counts while the run trains and no fault is open, so that each is seen
for itself. *wall*: faults come when they are due, also into a recovery; one that finds nobody to hit is void.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ftslurm.errors import FtslurmError, RunStopped, ServiceUnavailable, StorageError
from ftslurm.faults import hearing
from ftslurm.faults.catalogue import by_name, double_at
from ftslurm.faults.deeds import Moment
from ftslurm.faults.session import POLL_S, Session
from ftslurm.insight.text import took
from ftslurm.paths import RunPaths

if TYPE_CHECKING:
    from ftslurm.faults.arrivals import Draw
    from ftslurm.faults.book import Book
    from ftslurm.faults.fault import Fault, Need
    from ftslurm.faults.means import Means, Target
    from ftslurm.faults.planfile import Plan
    from ftslurm.faults.schedule import Leg, Schedule
    from ftslurm.faults.truth import Injection

START_S = 300.0
END_S = 3600.0


class NothingToBreak(ServiceUnavailable):
    """No run of those that were named trains any more."""


class Ground(Protocol):
    """Where a campaign takes place: a lab, or runs of one's own.

    `begins`: runs are begun for the campaign and belong to it; else they are somebody's, and are only hit.
    """

    @property
    def begins(self) -> bool: ...  # noqa: D102 - above

    @property
    def offers(self) -> frozenset[Need]:
        """What faults may need here; single runs may offer less."""

    @property
    def least(self) -> int:
        """The number of nodes below which a run could not go on."""

    def begin(self) -> RunPaths:
        """A run to be hit: a new one, or the next of those that were named.

        Raises:
            NothingToBreak: there is none.
        """

    def means(self, paths: RunPaths) -> Means:
        """The ways to break it, as soon as it is alive."""

    def mend(self) -> None:
        """Make everything well; jobs of runs that belong to the campaign are ended."""


@dataclass(slots=True)
class Course:
    """A campaign under way."""

    book: Book
    plan: Plan
    schedule: Schedule
    ground: Ground
    tell: Callable[[str], None]
    count: Callable[[int, int], None]
    _session: Session | None = None
    _lasting: list[tuple[float, Injection]] = field(default_factory=list)

    def run(self) -> str:
        """Do what is left to do; return why it is over before its time, empty: all was done.

        Raises:
            RunStopped: the stop file is there; the campaign can be gone on with.
            FtslurmError: the ground does not hold; the same.
        """
        why = ""
        try:
            self._take_up()
            if self.ground.begins:
                self._measure()
            for number, leg in enumerate(self.schedule.legs):
                why = why or self._leg(number, leg)
            self._see_off()
        except NothingToBreak as error:
            why = str(error)
        finally:
            if self._session is not None:
                self._session.undo_all()
        return why

    # --- runs

    def _take_up(self) -> None:
        """Go on with the run that an earlier call has left."""
        paths = self.book.open_run()
        if paths is None:
            return
        if not paths.root.is_dir():
            self.book.note("ended", run=paths.run_id, phase="lost", digest="")
            return
        self._session = self._of(paths)
        for injection in self._session.truth.read():
            leg, number = injection.draw.get("leg"), injection.draw.get("number")
            if isinstance(leg, int) and number is not None and number not in self.book.done(leg):
                self.book.note(
                    "injected", leg=leg, draw=number, run=paths.run_id, id=injection.id, fault=injection.fault
                )
        self._session.undo_all()

    def _of(self, paths: RunPaths) -> Session:
        ground, patience = self.ground, self.plan.settle
        return Session(paths=paths, means_of=ground.means, least=ground.least, settle_s=patience, tell=self.tell)

    def _begin(self, purpose: str) -> Session:
        paths = self.ground.begin()
        self.book.note("begun", run=paths.run_id, folder=str(paths.root), **{"for": purpose})
        self.tell(f"run {paths.run_id} is begun ({purpose})")
        self._session = self._of(paths)
        return self._session

    def _measure(self) -> None:
        """Let a run end undisturbed, once: its weights are what all others are compared with."""
        if self.book.last("undisturbed"):
            return
        session = self._session or self._begin("measure")
        session.wait(END_S, lambda _: False)
        digest = hearing.digest_of(session.paths, self.plan.weights)
        ended = session.look().phase
        if ended != "finished" or not digest:
            self._close(session)
            told = f"it is {ended}" if ended != "finished" else "rank 0 has not printed what `weights` looks for"
            raise ServiceUnavailable(f"the undisturbed run gives no weights: {told}", hint="see `weights` of the plan")
        self.book.note("undisturbed", digest=digest)
        self._close(session)

    def _ready(self) -> Session:
        """A run that trains; a new one where the last one is over."""
        until = time.monotonic() + START_S
        while True:
            self._heed()
            session = self._session or self._begin("faults")
            if session.look().over:
                self._close(session)
                until = time.monotonic() + START_S
            elif session.trains():
                return session
            elif time.monotonic() > until:
                self._give_up(session, f"it does not train within {took(START_S)}")
                raise ServiceUnavailable(
                    f"run {session.paths.run_id} does not train", hint="`ftslurm explain` says why"
                )
            else:
                time.sleep(POLL_S)

    def _heed(self) -> None:
        """Stop where the stop file is there."""
        for path in (self.plan.stop_file, self.book.folder.parent / "STOP"):
            if path is not None and Path(path).exists():
                raise RunStopped(f"stopped: {path} is there", hint="remove it, and the same command goes on")

    def _see_off(self) -> None:
        """Let the run come to its end."""
        session = self._session
        if session is None:
            return
        if self.ground.begins and not session.wait(END_S, lambda _: False):
            self._give_up(session, f"it has not ended within {took(END_S)}")
        else:
            self._close(session)

    def _give_up(self, session: Session, why: str) -> None:
        self.tell(f"run {session.paths.run_id} is given up: {why}")
        self.book.note("given_up", run=session.paths.run_id, why=why)
        self._close(session)

    def _close(self, session: Session) -> None:
        """Mend everything, and keep what a report needs."""
        self._session = None
        session.undo_all()
        self._lasting.clear()
        if self.ground.begins:
            self.ground.mend()
        try:
            hearing.keep(session.paths, self.book.runs)
        except OSError as error:
            raise StorageError(f"cannot keep run {session.paths.run_id}: {error}") from error
        digest = hearing.digest_of(session.paths, self.plan.weights)
        self.book.note("ended", run=session.paths.run_id, phase=str(session.look().phase), digest=digest)

    # --- faults

    def _leg(self, number: int, leg: Leg) -> str:
        """One leg; return why the campaign is over before its time, empty: it is not."""
        done = self.book.done(number)
        began, before = time.monotonic(), max((draw.at for draw in leg.draws if draw.number in done), default=0.0)
        began -= before
        for draw in leg.draws:
            if draw.number in done:
                continue
            if why := self._spent(draw):
                return why
            if self.plan.pace == "wall":
                self._until(began + draw.at)
            else:
                self._let_train(draw.at - before)
            self._arrive(number, draw)
            before = draw.at
            self.count(sum(len(self.book.done(each)) for each in range(len(self.schedule.legs))), self.schedule.size)
        return ""

    def _spent(self, draw: Draw) -> str:
        """Which budget is used up."""
        budget, costly = self.plan.budget, by_name(draw.fault).costs_node
        if self.book.count("injected") >= budget.injections:
            return f"the budget of {budget.injections} injections is used up"
        losses = sum(by_name(note["fault"]).costs_node for note in self.book.notes() if note["what"] == "injected")
        if costly and losses >= budget.node_losses:
            return f"the budget of {budget.node_losses} lost nodes is used up"
        return ""

    def _let_train(self, seconds: float) -> None:
        """Wait until a run has trained for so long."""
        left = seconds
        while left > 0:
            self._ready()
            began = time.monotonic()
            time.sleep(min(POLL_S, left))
            left -= time.monotonic() - began
        self._ready()

    def _until(self, due: float) -> None:
        """Wait until a moment, and undo meanwhile what has lasted long enough."""
        if self._session is None or self._session.look().over:
            self._ready()
        while (now := time.monotonic()) < due:
            self._heed()
            for until, injection in list(self._lasting):
                if now >= until and self._session is not None:
                    self._session.undo(injection)
                    self._lasting.remove((until, injection))
            time.sleep(min(POLL_S, due - now))

    def _arrive(self, leg: int, draw: Draw) -> None:
        """A fault is due."""
        fault = double_at(by_name(draw.fault), self._moment())
        facts = {"leg": leg, "draw": draw.number, "fault": draw.fault}
        if not fault.needs <= self.ground.offers:
            missing = ", ".join(sorted(fault.needs - self.ground.offers))
            self.book.note("skipped", **facts, why=f"it needs {missing}")
            return
        try:
            session, target = self._aimed(fault, draw, {"seed": self.schedule.seed, "leg": leg})
            if target is None:
                self.book.note("skipped", **facts, why="the runs have too few nodes or ranks for it")
                return
            before = session.look()
            injection = session.strike(fault, target)
        except (NothingToBreak, RunStopped):
            raise
        except FtslurmError as error:
            self.book.note("void", **facts, why=str(error))
            self.tell(f"{fault.name} hits nobody: {error}")
            return
        self.book.note("injected", **facts, run=session.paths.run_id, id=injection.id)
        if self.plan.pace == "wall":
            if not fault.costs_node and fault.lasts_s is not None:
                self._lasting.append((time.monotonic() + fault.lasts_s, injection))
        elif not session.see_through(fault, injection, before):
            self._give_up(session, f"it does not train again within {took(self.plan.settle)} after {fault.name}")

    def _moment(self) -> Moment | None:
        """When the second of two faults strikes; None: as the catalogue says."""
        return None if self.plan.double_at == "usual" else Moment(self.plan.double_at)

    def _aimed(self, fault: Fault, draw: Draw, about: dict[str, Any]) -> tuple[Session, Target | None]:
        """Whom a draw means. A run that has too few nodes left goes on to its end, and the next one is hit."""
        session = self._session or self._ready()
        target = session.aim(fault, draw, about)
        if target is None and self.ground.begins:
            self._see_off()
            session = self._ready()
            target = session.aim(fault, draw, about)
        return session, target
