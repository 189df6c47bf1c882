"""One run under attack: where it stands, whom a draw means in it, a fault made, seen through and undone.

What is drawn is used: a target is chosen by the draw's own number among what is there in order, and the truth carries
the draw, the candidates and the choice, so that anybody can do the sum again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ftslurm import journal
from ftslurm.core.events import Phase
from ftslurm.errors import FtslurmError
from ftslurm.faults.choosing import placing
from ftslurm.faults.hearing import signs
from ftslurm.faults.inject import inject, undo
from ftslurm.faults.means import Means, Target
from ftslurm.faults.truth import Injection, Outcome, Truth
from ftslurm.insight.remembered import Cache
from ftslurm.insight.summary import Summary

if TYPE_CHECKING:
    from ftslurm.faults.arrivals import Draw
    from ftslurm.faults.fault import Fault
    from ftslurm.paths import RunPaths

POLL_S = 0.2
REST_S = 10.0
"""How long a fault of which nothing is to be said is watched, where the catalogue does not say how long it lasts."""

ONE_RANK = frozenset({"rank", "program"})
ONE_NODE = frozenset({"node", "host", "supervisor"})


@dataclass(slots=True)
class Session:
    """A run that takes faults.

    Attributes:
        paths: its folder.
        means_of: how it is broken; asked once it trains.
        least: the number of nodes below which it could not go on.
        settle_s: how long it may take until it trains again.
        tell: who hears what happens.
    """

    paths: RunPaths
    means_of: Callable[[RunPaths], Means]
    least: int
    settle_s: float
    tell: Callable[[str], None]
    _cache: Cache = field(default_factory=Cache)
    _means: Means | None = None

    @property
    def means(self) -> Means:
        """The ways to break it and to mend it.

        Raises:
            FtslurmError: there are none: it is somebody else's, or not alive.
        """
        if self._means is None:
            self._means = self.means_of(self.paths)
        return self._means

    @property
    def truth(self) -> Truth:
        """What was done to it."""
        return Truth(self.paths)

    def look(self) -> Summary:
        """Where it stands now."""
        return self._cache.of(self.paths)

    def trains(self) -> bool:
        """Whether it trains, and has something to go back to."""
        now = self.look()
        return now.phase is Phase.TRAINING and now.newest is not None

    # --- whom to hit

    def aim(self, fault: Fault, draw: Draw, about: dict[str, Any]) -> Target | None:
        """Whom this draw means; None: nobody is left whom this run could do without, or too few to notice it.

        Raises:
            TryAgain: it does not train just now.
        """
        now = placing(self.paths)
        placement, host = now.placement, now.host
        if len(placement) < fault.ranks or (fault.costs_node and len(set(placement)) <= self.least):
            return None
        nodes = {"host": {host}, "supervisor": {host}}.get(fault.where, set(placement) - {host} or set(placement))
        node, rank, candidates = "", None, list[str]()
        if fault.where in ONE_RANK:
            candidates = [f"{number:05d}" for number in range(len(placement))]
            rank = int(draw.choose(candidates)) if candidates else None
            node = placement[rank] if rank is not None else ""
        elif fault.where in ONE_NODE:
            candidates = sorted(nodes - {""})
            node = draw.choose(candidates) if candidates else ""
        if fault.where in ONE_RANK | ONE_NODE and not candidates:
            return None
        chosen = {**about, **asdict(draw), "candidates": candidates}
        return Target(paths=self.paths, node=node, rank=rank, attempt=now.attempt, draw=chosen)

    # --- hitting it

    def strike(self, fault: Fault, target: Target) -> Injection:
        """Make a fault.

        Raises:
            FtslurmError: it could not be made.
        """
        self.tell(
            f"{fault.name}: {fault.what}{f', rank {target.rank}' if target.rank is not None else ''} {target.node}"
        )
        return inject(fault, target, self.means, self.truth)

    def see_through(self, fault: Fault, injection: Injection, before: Summary) -> bool:
        """Wait until a fault is over and the run trains as before; whether it does."""
        if fault.stops_training or fault.costs_node:
            again = self.wait(self.settle_s, lambda now: _newer(now, before) and now.phase is Phase.TRAINING)
            if not again:
                return False
        elif fault.causes:
            patience = min(fault.lasts_s or self.settle_s, self.settle_s)
            self.wait(patience, lambda _: self._has_said(fault, injection))
        else:
            self.wait(fault.lasts_s or REST_S, lambda _: False)
        if not fault.costs_node:  # a node that is given up stays so: it is mended when the run is over
            self.undo(injection)
        saved = self.look().newest
        return self.wait(self.settle_s, lambda now: now.phase is Phase.TRAINING and now.newest != saved)

    def wait(self, patience_s: float, test: Callable[[Summary], bool]) -> bool:
        """Poll until `test` holds or the run is over; whether that came in time."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            now = self.look()
            if now.over or test(now):
                return True
            time.sleep(POLL_S)
        return False

    def _has_said(self, fault: Fault, injection: Injection) -> bool:
        return any(each.t >= injection.at and each.slug in fault.causes for each in signs(journal.read(self.paths)))

    # --- mending it

    def undo(self, injection: Injection) -> None:
        """Undo one fault; what cannot be undone is told."""
        try:
            undo(injection, self.means, self.truth)
        except FtslurmError as error:
            self.tell(f"{injection.fault} cannot be undone: {error}")

    def undo_all(self) -> None:
        """Undo every fault that lasts, those of an earlier call among them."""
        for injection in self.truth.read():
            if injection.undone_at is None and not injection.part_of and injection.outcome is not Outcome.FAILED:
                self.undo(injection)


def _newer(now: Summary, before: Summary) -> bool:
    return (now.attempt or 0) > (before.attempt or 0)
