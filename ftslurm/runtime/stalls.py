"""The supervisor's watch over the progress of the ranks: digests in, events out, with the rules of `core.progress`.

Digests come in the hub's thread, which touches no file; `tick` is called by the supervisor's loop about once a second.
A node whose digest is old is not judged: nobody knows what its ranks do, and the failure detector asks about the node.
Silence does not count while shared storage hangs, or while this process itself stood still.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ftslurm.core.diagnosis import Cause
from ftslurm.core.events import Event, Phase
from ftslurm.core.progress import (
    NAMED,
    SPIKE,
    STEP,
    Learnt,
    Losses,
    Patience,
    Sign,
    Situation,
    foresee,
    judge,
    learn,
    learnt_limit_s,
    stragglers,
    take_loss,
)
from ftslurm.core.state import Run
from ftslurm.core.symptoms import (
    AutopsyTaken,
    LossAlarm,
    ProgressSignal,
    RanksResumed,
    RanksStalled,
    Stack,
    StragglerSeen,
)
from ftslurm.runtime.working import Pace, WorkWatch

log = logging.getLogger(__name__)

TICK_S, RANKS_PER_S = 0.5, 10_000
WINDOW_S = 10.0
FRESH_S = 12.0
STOOD_STILL_S = 3.0
UNSEEN_AFTER_S = 60.0
AGAIN_S = 10.0
SPIKES_APART_S = 60.0

Message = Mapping[str, Any]


@dataclass
class _Rank:
    node: str
    heard: float
    sign: Sign


@dataclass
class _Attempt:
    """What was told in one attempt; `fresh`, `own` and `count` are of the window that is going on."""

    number: int
    begun: float
    ranks: dict[int, _Rank] = field(default_factory=dict)
    fresh: dict[str, list[float]] = field(default_factory=dict)
    tick_s: dict[str, float] = field(default_factory=dict)
    own: dict[int, tuple[float, int]] = field(default_factory=dict)
    streaks: dict[int, int] = field(default_factory=dict)
    window: float = 0.0
    newest_saved: float = -math.inf
    saved_step: int = -1
    nan_told: bool = False
    stalled_at: float = -math.inf
    looked_at: float = -math.inf
    early: RanksStalled | None = None


class ProgressWatch:
    """Knows how far every rank is. Methods may be called from any thread."""

    def __init__(self, patience: Patience, emit: Callable[[Event], None]) -> None:
        self._patience = patience
        self._emit = emit
        self._lock = threading.Lock()
        self._now: _Attempt | None = None
        self._learnt = Learnt()
        self._losses = Losses()
        self._work = WorkWatch()
        self._teller: int | None = None
        self._spike_at = -math.inf
        self._seen_before = False
        self._said: str | None = None
        self._ticked = time.monotonic()
        self._excused = -math.inf

    def take(self, node: str, message: Message) -> None:
        """A node's digest has come."""
        now = time.monotonic()
        alarms: list[LossAlarm] = []
        with self._lock:
            attempt = self._now
            if attempt is None or int(message["attempt"]) != attempt.number:
                return
            for row in message["ranks"]:
                alarms += self._take_row(attempt, node, row, now)
        for alarm in alarms:
            self._emit(alarm)

    def _take_row(self, attempt: _Attempt, node: str, row: list[Any], now: float) -> list[LossAlarm]:
        rank, source, beats, step, phase, age_s, taken_s, (own_s, own_steps), losses = row
        sign = Sign(rank=rank, source=source, beats=beats, step=step, phase=phase, age_s=age_s)
        attempt.ranks[rank] = _Rank(node, now, sign)
        for name, seconds in taken_s.items():
            attempt.tick_s[name] = max(attempt.tick_s.get(name, 0.0), float(seconds))
        before_s, before = attempt.own.get(rank, (0.0, 0))
        attempt.own[rank] = (before_s + own_s, before + own_steps)
        return [alarm for step, value in losses for alarm in self._take_loss(attempt, rank, int(step), float(value))]

    def _take_loss(self, attempt: _Attempt, rank: int, step: int, value: float) -> list[LossAlarm]:
        """A loss that is no number counts from any rank, a spike from the first that tells its losses."""
        self._teller = rank if self._teller is None else min(self._teller, rank)
        if math.isfinite(value) and rank != self._teller:
            return []
        self._losses, odd = take_loss(self._losses, value)
        if odd is None:
            return []
        if not math.isfinite(value):
            told, attempt.nan_told = attempt.nan_told, True
            return [] if told else [_alarm(attempt.number, "nan", rank, step, value)]
        now = time.monotonic()
        if odd.score < SPIKE or now - self._spike_at < SPIKES_APART_S:
            log.info("the loss of step %d is %g, %.1f deviations over %g", step, value, odd.score, odd.median)
            return []
        self._spike_at = now
        return [_alarm(attempt.number, "spike", rank, step, value, odd.median, odd.score)]

    # -------------------------------------------------------------------------------------------------- judging

    def tick(self, run: Run, *, storage_stalled: bool) -> None:
        """Look at what is known: now and then, from the supervisor's loop."""
        now = time.monotonic()
        with self._lock:
            if now - self._ticked < TICK_S + (len(self._now.ranks) / RANKS_PER_S if self._now else 0.0):
                return
            events = self._look(run, now, storage_stalled)
        for event in events:
            self._emit(event)

    def _look(self, run: Run, now: float, storage_stalled: bool) -> list[Event]:  # noqa: FBT001 - tick names it
        stood_still, self._ticked = now - self._ticked > STOOD_STILL_S, now
        if storage_stalled or stood_still:
            self._excused = now
        attempt = self._follow(run, now)
        if attempt is None:
            return []
        newest = max((saved.step for saved in run.saved if saved.attempt == attempt.number), default=-1)
        if newest > attempt.saved_step:
            attempt.saved_step, attempt.newest_saved = newest, now
        found: list[Event] = [*self._source(attempt, now)]
        found += self._work.look((rank.sign for rank in attempt.ranks.values()), run.newest_step, now)
        if "save" in attempt.tick_s:
            self._work.pause(attempt.tick_s["save"], now)
        for phase, seconds in attempt.tick_s.items():
            attempt.fresh.setdefault(phase, []).append(seconds)
        attempt.tick_s = {}
        if now - attempt.window >= WINDOW_S:
            found += self._work.pauses(now)
            found += self._close_window(attempt, run, now)
        if attempt.early is not None and _moved_since(attempt, attempt.early):
            attempt.early = None
            found.append(RanksResumed(attempt=attempt.number))
        stall = self._stall(attempt, run, now) if run.phase is Phase.TRAINING else None
        return found + ([stall] if stall else [])

    def _follow(self, run: Run, now: float) -> _Attempt | None:
        """Return what is known of the attempt that trains now. What the end of another has taught is forgotten."""
        attempt = run.attempt
        if attempt is None or not attempt.released or attempt.fencing:
            self._now = None
            return None
        if self._now is None or self._now.number != attempt.number:
            self._now = _Attempt(attempt.number, now, window=now)
            self._work.begin(attempt)
        return self._now

    def _source(self, attempt: _Attempt, now: float) -> list[ProgressSignal]:
        """Say once by what progress is seen, or that it is not."""
        if not self._patience.auto and self._patience.hang_after_s is None:
            return []
        sources = {rank.sign.source for rank in attempt.ranks.values()} - {""}
        best = next((name for name in ("beat", "pattern", "files") if name in sources), "")
        if best and not self._said:
            self._said, self._seen_before = best, True
            return [ProgressSignal(attempt=attempt.number, source=best)]
        if not best and self._said is None and self._patience.auto and now - attempt.begun > UNSEEN_AFTER_S:
            self._said = ""
            return [ProgressSignal(attempt=attempt.number, source="")]
        return []

    def _close_window(self, attempt: _Attempt, run: Run, now: float) -> list[StragglerSeen]:
        """The last ten seconds did not end in a failure: learn from them, and compare the ranks."""
        before = learnt_limit_s(self._learnt.taken_s.get(STEP, ()))
        self._learnt = learn(self._learnt, run.current.world_size, attempt.fresh)
        after = learnt_limit_s(self._learnt.taken_s.get(STEP, ()))
        if after is not None and (before is None or not 0.8 < after / before < 1.25):
            count = len(self._learnt.taken_s[STEP])
            log.info("patience with a step: %s -> %.1f s, from %d windows", before, after, count)
        own_s = {rank: total / count for rank, (total, count) in attempt.own.items() if count}
        attempt.streaks, slow = stragglers(attempt.streaks, own_s)
        attempt.fresh, attempt.own, attempt.window = {}, {}, now
        return [
            StragglerSeen(
                attempt=attempt.number,
                rank=each.rank,
                node=attempt.ranks[each.rank].node,
                own_s=round(each.own_s, 6),
                median_s=round(each.median_s, 6),
                score=round(each.score, 1),
                windows=each.windows,
            )
            for each in slow
        ]

    def _stall(self, attempt: _Attempt, run: Run, now: float) -> RanksStalled | None:
        if now - attempt.stalled_at < AGAIN_S:
            return None
        quiet_s = now - max(attempt.begun, attempt.newest_saved, self._excused)
        situation = Situation(
            attempt=attempt.number,
            quiet_s=quiet_s,
            checkpoints=attempt.saved_step >= 0,
            hangs=_hangs(run),
            looked_s=now - attempt.looked_at,
        )
        patience = self._patience
        if self._seen_before and not patience.expected:
            patience = replace(patience, expected=True)
        ended = run.current.ended
        known = [rank for rank in attempt.ranks.values() if now - rank.heard <= FRESH_S]
        signs = [rank.sign for rank in known if rank.sign.rank not in ended]
        stall = judge(signs, self._learnt, patience, situation)
        if stall is None:
            stall = foresee(signs, self._learnt, patience, situation)
            if stall is None:
                return None
            attempt.early, attempt.looked_at = stall, now
        attempt.stalled_at = now
        return stall

    def pace(self) -> tuple[int, list[Pace]]:
        """The newest step (-1: none is known), and the pace of those since this was asked the last time."""
        with self._lock:
            return self._work.step, self._work.paces()

    def moved(self, stall: RanksStalled) -> bool:
        """Whether a rank of a stall has made progress since."""
        with self._lock:
            attempt = self._now
            if attempt is None or attempt.number != stall.attempt:
                return True
            signs = [attempt.ranks[rank].sign for rank in stall.ranks if rank in attempt.ranks]
            moved = any(sign.age_s < stall.silent_s and sign.age_s < AGAIN_S / 2 for sign in signs)
            if moved and attempt.early is stall:
                attempt.early = None  # the autopsy itself will say so
            return moved


def _moved_since(attempt: _Attempt, stall: RanksStalled) -> bool:
    """Whether a rank of a stall has made progress since it was looked at."""
    ranks = [attempt.ranks[rank] for rank in stall.ranks if rank in attempt.ranks]
    return any(rank.heard - rank.sign.age_s > attempt.looked_at for rank in ranks)


def _hangs(run: Run) -> int:
    """How many attempts in a row ended in a hang and without progress."""
    count = 0
    for failure in reversed(run.failures):
        if failure.diagnosis.cause is not Cause.PROGRAM_HANG or failure.progressed:
            break
        count += 1
    return count


def _alarm(attempt: int, kind: str, rank: int, step: int, value: float, *odd: float) -> LossAlarm:
    middle, score = odd or (0.0, 0.0)
    return LossAlarm(
        attempt=attempt, kind=kind, rank=rank, step=step, value=f"{value:.6g}", median=middle, score=round(score, 1)
    )


class Autopsies:
    """Gathers what the nodes find of one stalled attempt; one answer for all of them, at the deadline at the latest."""

    def __init__(self, watch: ProgressWatch, emit: Callable[[Event], None]) -> None:
        self._watch = watch
        self._emit = emit
        self._lock = threading.Lock()
        self._stall: RanksStalled | None = None
        self._waiting: set[str] = set()
        self._stacks: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        self._notes: list[str] = []

    def begin(self, stall: RanksStalled, nodes: tuple[str, ...], deadline_s: float) -> None:
        """These nodes have been asked."""
        with self._lock:
            self._stall, self._waiting, self._stacks, self._notes = stall, set(nodes), {}, []
        timer = threading.Timer(deadline_s, self._over, (stall,))
        timer.daemon = True
        timer.start()

    def take(self, node: str, message: Message) -> None:
        """One node has answered."""
        with self._lock:
            if self._stall is None or int(message["attempt"]) != self._stall.attempt or node not in self._waiting:
                return
            self._waiting.discard(node)
            for state, frames, ranks in message["stacks"]:
                self._stacks.setdefault((str(state), tuple(frames)), []).extend(ranks)
            self._notes += [str(note) for note in message["notes"] if note not in self._notes]
            over = self._stall if not self._waiting else None
        if over is not None:
            self._over(over)

    def _over(self, stall: RanksStalled) -> None:
        with self._lock:
            if self._stall is not stall:
                return
            self._stall = None
            stacks = tuple(
                Stack(state=state, frames=frames, ranks=tuple(sorted(ranks)[:NAMED]), more=max(len(ranks) - NAMED, 0))
                for (state, frames), ranks in sorted(self._stacks.items(), key=lambda item: -len(item[1]))[:NAMED]
            )
            missing, notes = tuple(sorted(self._waiting)), tuple(self._notes[:8])
        resumed = self._watch.moved(stall)
        self._emit(AutopsyTaken(attempt=stall.attempt, stacks=stacks, missing=missing, notes=notes, resumed=resumed))
