"""When this program saves, and when it stops: the same answer on every rank.

Steps and epochs are asked about on every rank alike. All else (clock, metric, orders, signals, the time limit, whether
a full save can serve as a base) is seen by rank 0 alone, which announces it (`library.ranks`). The rules themselves
are `core.savepolicy`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftslurm.checkpoint.handover import OrderReader
from ftslurm.core import savepolicy
from ftslurm.core.savepolicy import Moment, SavePolicy
from ftslurm.library.ranks import Ranks
from ftslurm.library.signals import SignalWatch

_SMOOTH = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the program says at the end of a step."""

    step: int
    epoch: float | None = None
    epoch_ended: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Why a save is to be made now ("" for none), and whether the program shall stop after it."""

    reason: str = ""
    stop: bool = False


@dataclass(slots=True, kw_only=True)
class Outside:
    """What rank 0 looks at. `end_time`: seconds since 1970; `bases`: full saves that are known to be whole."""

    orders: OrderReader | None = None
    signals: SignalWatch | None = None
    end_time: float | None = None
    mtbf_s: float = 0.0
    busy: Callable[[], bool] = lambda: False
    base: Callable[[], str] = lambda: ""


class Decider:
    """Decides on one rank. `step` has to be called equally often on all of them."""

    def __init__(self, policy: SavePolicy, ranks: Ranks, outside: Outside) -> None:
        self._policy, self._ranks, self._outside = policy, ranks, outside
        self._call, self._pending = 0, 0
        self._order: savepolicy.Order | None = None
        self._stopping = False
        self._last_step, self._last_s = 0, time.monotonic()
        self._step_s, self._stepped = 0.0, time.monotonic()
        self.cost_s, self.drain_s = 0.0, 0.0
        self.best: float | None = None
        self.base = ""

    def begin(self, step: int, best: float | None) -> None:
        """Training goes on from here."""
        self._last_step, self._last_s, self.best = step, time.monotonic(), best

    def saved(self, step: int, metrics: Mapping[str, float]) -> None:
        """A save was made, or skipped, at this step: on all ranks alike."""
        self._last_step, self._last_s, self._order = step, time.monotonic(), None
        value = metrics.get(self._policy.metric) if self._policy.metric else None
        if value is not None and savepolicy.improves(self._policy, value, self.best):
            self.best = value

    def step(self, told: Told) -> Answer:
        """Decide at the end of a step. Raises ServiceUnavailable: rank 0 does not answer."""
        self._call += 1
        now = time.monotonic()
        self._step_s += (now - self._stepped - self._step_s) * (_SMOOTH if self._call > 1 else 1.0)
        self._stepped = now
        alike = savepolicy.due_by_step(self._policy, told.step, self._last_step, epoch_ended=told.epoch_ended)
        if self._ranks.rank == 0 and self._call > self._pending:
            self._look(told, now, due=alike.save)
        word = self._ranks.announced(self._call)
        said: dict[str, Any] = json.loads(word) if word else {}
        self.base = said.get("base", self.base)
        reason = alike.reason if alike.save else str(said.get("why", ""))
        return Answer(reason=reason, stop=bool(said.get("stop")))

    def _look(self, told: Told, now: float, *, due: bool) -> None:
        """Rank 0: whatever the others cannot know is announced. What stops the program waits for no save in flight."""
        order = self._outside.orders.look() if self._outside.orders is not None else None
        if order is not None and order.save:
            known = order.why in tuple(savepolicy.Order)
            self._order = savepolicy.Order(order.why) if known else savepolicy.Order.OPERATOR
        signal = self._outside.signals.seen if self._outside.signals is not None else ""
        said: dict[str, Any] = {}
        if not self._stopping and (signal or (order is not None and order.stop)):
            self._stopping = said["stop"] = True
            if signal:
                said["why"] = f"{signal} was received"
            elif self._order is not None:
                said["why"] = savepolicy.ORDER_WORDS[self._order]
        elif not due:
            decision = savepolicy.decide(self._policy, self._moment(told, now))
            if decision.save and decision.needs_announcement:
                said["why"] = decision.reason
        base = self._outside.base()
        if base != self.base:
            said["base"] = base
        if said:
            self._pending = self._ranks.announce(self._call, json.dumps(said))

    def _moment(self, told: Told, now: float) -> Moment:
        end = self._outside.end_time
        return Moment(
            step=told.step,
            epoch=told.epoch,
            epoch_ended=told.epoch_ended,
            now_s=now,
            last_save_step=self._last_step,
            last_save_s=self._last_s,
            in_flight=self._outside.busy(),
            best=self.best,
            metrics=told.metrics,
            order=self._order,
            remaining_s=None if end is None else end - time.time(),
            save_cost_s=self.cost_s,
            drain_s=self.drain_s,
            mtbf_s=self._outside.mtbf_s,
            step_s=self._step_s,
        )
