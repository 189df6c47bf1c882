"""When is a program that is alive nevertheless stuck, slow or wrong? Pure rules over what its ranks tell.

- *Stuck.* The patience with a phase is learnt from how long it has taken: max(1.5 x the 99.9th percentile, 3 x the
  median), within a fixed floor and ceiling, so that learning can never switch detection off (NVRx and others, see
  `reliability.md` 6.4). What has not been learnt yet, the first steps, and start-up have the patience of start-up.
  Ranks that wait for one that saves, loads or evaluates are excused by it. Where all this is longer than the time-out
  of a collective, which ends the ranks unseen, they are looked at before that, and nothing is ended.
- *Slow.* The modified z-score (Iglewicz and Hoaglin 1993) of a rank's own time for a step, above 3.5 in five windows in
  a row, and more than 10 % over the median: with a thousand ranks chance alone flags one in every third window.
- *Wrong.* A loss that is NaN or infinite at once; a spike against median and MAD of the last 200 good values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from ftslurm.core.symptoms import RanksStalled

STEP, INIT = "step", "init"
WARM_UP = 5
FLOOR_S, CEILING_S = 20.0, 1800.0
KEPT, NEEDED = 400, 5
EARLY = 0.8
"""The share of a collective's time-out after which silent ranks are looked at."""
NAMED = 64

SLOW_SCORE, SLOW_SHARE, SLOW_WINDOWS = 3.5, 0.10, 5
MAD_TO_SIGMA = 0.6745
LOSSES, LOSSES_NEEDED, SPIKE, NOTE = 200, 50, 6.0, 3.0


# ---------------------------------------------------------------------------------------------------------- stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What the user allows.

    Attributes:
        hang_after_s: the limit of a step, where it is fixed.
        auto: it is learnt. Neither: nothing is ever called a hang.
        startup_s: the limit of all that has not been learnt. Too low: a slow first step is taken for a hang.
        expected: the program shows its progress, as is known before it does: then silence in its start counts.
        collective_s: after so long a collective operation ends the ranks by itself; None: it never does.
    """

    hang_after_s: float | None = None
    auto: bool = True
    startup_s: float = 1800.0
    expected: bool = False
    collective_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What is known of one rank; `source` is empty where it has shown no progress yet."""

    rank: int
    source: str
    beats: int
    step: int
    phase: str
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """How long the phases of one world size have taken, the newest times last."""

    world_size: int = 0
    taken_s: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def learn(learnt: Learnt, world_size: int, fresh: Mapping[str, Sequence[float]]) -> Learnt:
    """Return what is known after a window that did not end in a failure; another world size starts anew."""
    known = dict(learnt.taken_s) if learnt.world_size == world_size else {}
    for phase, times in fresh.items():
        known[phase] = (*known.get(phase, ()), *times)[-KEPT:]
    return Learnt(world_size=world_size, taken_s=known)


def learnt_limit_s(taken_s: Sequence[float]) -> float | None:
    """Return the limit that these times teach; None while they are too few."""
    if len(taken_s) < NEEDED:
        return None
    ordered = sorted(taken_s)
    middle = median(ordered)
    rare = ordered[min(math.ceil(0.999 * len(ordered)), len(ordered)) - 1]
    # A program whose usual step is nearly as long as the ceiling is not called stuck for it.
    ceiling = max(CEILING_S, 1.5 * middle)
    return min(max(1.5 * rare, 3 * middle, FLOOR_S), ceiling)


def limit_s(sign: Sign, learnt: Learnt, patience: Patience, hangs: int = 0) -> float:
    """Return for how long a rank may be silent. `hangs` in a row stretch what is learnt: the verdicts may be wrong."""
    if sign.phase == INIT or sign.beats <= WARM_UP:
        return max(patience.startup_s, patience.hang_after_s or 0.0)
    if sign.phase == STEP and patience.hang_after_s is not None:
        return patience.hang_after_s
    known = learnt_limit_s(learnt.taken_s.get(sign.phase, ()))
    if known is None:
        return patience.startup_s
    return min(known * 4.0**hangs, max(known, CEILING_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a judgement depends on besides the ranks' signs.

    `quiet_s` is for how long nothing else explains silence: since the ranks were released, shared storage answered
    again, the newest checkpoint came, and the observer itself stood still. `checkpoints`: this attempt has saved one.
    `looked_s` is how long ago a stall was looked into early.
    """

    attempt: int
    quiet_s: float
    checkpoints: bool = False
    hangs: int = 0
    looked_s: float = math.inf


def judge(signs: Sequence[Sign], learnt: Learnt, patience: Patience, now: Situation) -> RanksStalled | None:
    """Return the stall, if there is one."""
    if not patience.auto and patience.hang_after_s is None:
        return None
    watched = _watched(signs, patience, now)
    limits: dict[tuple[str, bool], float] = {}  # there may be a hundred thousand ranks
    over = []
    for sign in watched:
        kind = (sign.phase, sign.beats <= WARM_UP)
        if kind not in limits:
            limits[kind] = limit_s(sign, learnt, patience, now.hangs)
        if min(sign.age_s, now.quiet_s) > limits[kind]:
            over.append(sign)
        elif sign.phase != STEP:
            return None  # the others may be waiting for this one, and it has a right to be slow
    if not over:
        return None
    longest = max(over, key=lambda sign: sign.age_s)
    return _stall(over, watched, now, limits[longest.phase, longest.beats <= WARM_UP])


def foresee(signs: Sequence[Sign], learnt: Learnt, patience: Patience, now: Situation) -> RanksStalled | None:
    """Return the stall that a collective's time-out would end before `judge` speaks, once for each.

    Nobody is excused by a rank that saves: the time-out excuses nobody either. Silence as long as this phase has had
    before, and lived through, tells nothing.
    """
    if patience.collective_s is None:
        return None
    early_s = EARLY * patience.collective_s
    telling = [sign for sign in signs if sign.source]
    watched = telling or (signs if patience.expected else [])
    usual = {phase for phase, taken_s in learnt.taken_s.items() if max(taken_s, default=0.0) >= early_s}
    silent = [sign for sign in watched if min(sign.age_s, now.quiet_s) >= early_s and sign.phase not in usual]
    over = [sign for sign in silent if _hang_limit_s(sign, learnt, patience, now.hangs) > early_s]
    if all(min(sign.age_s, now.quiet_s) > now.looked_s for sign in over):  # none, or seen already
        return None
    return replace(_stall(over, watched, now, early_s), early=True)


def _hang_limit_s(sign: Sign, learnt: Learnt, patience: Patience, hangs: int) -> float:
    never = not patience.auto and patience.hang_after_s is None
    return math.inf if never else limit_s(sign, learnt, patience, hangs)


def _stall(over: Sequence[Sign], watched: Sequence[Sign], now: Situation, limit: float) -> RanksStalled:
    longest = max(over, key=lambda sign: sign.age_s)
    ranks = sorted(sign.rank for sign in over)
    return RanksStalled(
        attempt=now.attempt,
        ranks=tuple(ranks[:NAMED]),
        count=len(ranks),
        phase=longest.phase,
        silent_s=round(min(longest.age_s, now.quiet_s), 1),
        limit_s=round(limit, 1),
        step=max(sign.step for sign in over),
        behind=_behind(watched),
    )


def _watched(signs: Sequence[Sign], patience: Patience, now: Situation) -> Sequence[Sign]:
    """Those whose silence means something; checkpoints alone are a sign only where the user has set a limit."""
    telling = [sign for sign in signs if sign.source]
    if telling or patience.expected:
        return telling or signs
    if patience.hang_after_s is None or not now.checkpoints:
        return ()
    return [replace(sign, source="checkpoints", beats=WARM_UP + 1, phase=STEP, age_s=math.inf) for sign in signs]


def _behind(signs: Sequence[Sign]) -> tuple[int, ...]:
    """The ranks that have done fewer steps than the rest, where these are the minority."""
    newest = max(sign.step for sign in signs)
    late = sorted(sign.rank for sign in signs if sign.step < newest)
    return tuple(late[:NAMED]) if 2 * len(late) < len(signs) else ()


# ----------------------------------------------------------------------------------------------------------- slow


def scores(values: Mapping[int, float]) -> dict[int, float]:
    """Return the modified z-score of each; by the range of the middle half, or the whole, where the MAD is 0."""
    if len(values) < 3:
        return dict.fromkeys(values, 0.0)
    ordered = sorted(values.values())
    middle = median(ordered)
    spread = median(abs(value - middle) for value in ordered) / MAD_TO_SIGMA
    if spread == 0.0:
        spread = (ordered[(3 * len(ordered)) // 4] - ordered[len(ordered) // 4]) / 1.349
    if spread == 0.0:
        spread = (ordered[-1] - ordered[0]) / (2 * SLOW_SCORE)
    return {key: (value - middle) / spread if spread else 0.0 for key, value in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """A rank that was too slow in one window."""

    rank: int
    own_s: float
    median_s: float
    score: float
    windows: int


def stragglers(streaks: Mapping[int, int], own_s: Mapping[int, float]) -> tuple[dict[int, int], tuple[Slow, ...]]:
    """Return the streaks after one more window, and the ranks whose streak has just become long enough."""
    middle = median(own_s.values()) if own_s else 0.0
    now, found = {}, []
    for rank, score in scores(own_s).items():
        if score > SLOW_SCORE and own_s[rank] > middle * (1 + SLOW_SHARE):
            now[rank] = streaks.get(rank, 0) + 1
            if now[rank] == SLOW_WINDOWS:
                found.append(Slow(rank=rank, own_s=own_s[rank], median_s=middle, score=score, windows=SLOW_WINDOWS))
    return now, tuple(found)


# ---------------------------------------------------------------------------------------------------------- wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The newest losses that were not flagged."""

    values: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Oddity:
    """A loss that is not like the others; `score` is in standard deviations, infinite for NaN and infinity."""

    value: float
    median: float = 0.0
    score: float = math.inf


def take_loss(losses: Losses, value: float) -> tuple[Losses, Oddity | None]:
    """Return the losses with one more, and what is odd about it: only good ones are learnt from."""
    if not math.isfinite(value):
        return losses, Oddity(value=value)
    known = losses.values
    if len(known) >= LOSSES_NEEDED:
        middle = median(known)
        spread = median(abs(each - middle) for each in known) / MAD_TO_SIGMA
        score = (value - middle) / spread if spread else 0.0
        if score >= SPIKE:
            return losses, Oddity(value=value, median=middle, score=score)
        grown = Losses(values=(*known, value)[-LOSSES:])
        return grown, (Oddity(value=value, median=middle, score=score) if score >= NOTE else None)
    return Losses(values=(*known, value)), None
