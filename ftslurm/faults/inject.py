"""A fault, made and undone, with the truth about it written down: first the intent, then the act."""

from __future__ import annotations

import time
from dataclasses import replace

from ftslurm.errors import FtslurmError, Refused
from ftslurm.faults.catalogue import by_name
from ftslurm.faults.choosing import Wish, await_attempt, choose, placing
from ftslurm.faults.deeds import Moment, Pair
from ftslurm.faults.fault import Fault, Need
from ftslurm.faults.means import Means, Target
from ftslurm.faults.truth import Injection, Outcome, Truth, fresh_id

SECOND_S = 120.0
LACKING = {
    Need.ROOT: "root",
    Need.LAB: "the lab, where nodes have cables and power (`ftslurm lab`)",
    Need.GPU: "a run with GPUs (resources.gpus_per_node)",
    Need.PROGRAM: "a program that obeys orders in the run's faults.d (docs/how-to/faults.md)",
    Need.YES: "your word: it cannot be undone (--yes)",
}


def inject(fault: Fault, target: Target, means: Means, truth: Truth, lasts_s: float | None = None) -> Injection:
    """Make a fault and return what was done. Whoever calls this calls `undo` as well, also when something goes wrong.

    A double fault is recorded as a whole, and its parts as `part_of` it.

    Raises:
        Refused: it needs what these means do not offer; nothing was done.
        FtslurmError: it could not be made; that it could not is recorded.
    """
    refuse(fault, means)
    intent = _intent(fault, target)
    if isinstance(fault.deed, Pair):
        return _both(fault.deed, target, intent, means, truth)
    return _strike(fault, intent, means, truth, lasts_s)


def undo(injection: Injection, means: Means, truth: Truth) -> Injection:
    """Undo it, and record when; nothing happens where nothing is to be undone, or it was undone before.

    Raises:
        FtslurmError: it could not be undone.
    """
    fault = by_name(injection.fault)
    if injection.undone_at is not None:
        return injection
    parts = [each for each in truth.read() if each.part_of == injection.id]
    undone = [undo(part, means, truth).undone_at for part in reversed(parts)]
    if isinstance(fault.deed, Pair):
        times = [at for at in undone if at is not None]
        if not times:
            return injection
        mended = replace(injection, undone_at=max(times))
    elif fault.undo and injection.outcome is not Outcome.FAILED:
        mended = replace(injection, undone_at=means.undo(fault, injection))
    else:
        return injection
    truth.append(mended)
    return mended


def refuse(fault: Fault, means: Means) -> None:
    """Raise Refused, with all that is missing, unless these means can make the fault."""
    missing = [need for need in Need if need in fault.needs and need not in means.offers]
    if missing:
        hint = f"{fault.stand_in} comes next to it without privileges" if fault.stand_in else fault.no_stand_in
        raise Refused(f"{fault.name} needs {'; '.join(LACKING[need] for need in missing)}", hint=hint)


def _intent(fault: Fault, target: Target) -> Injection:
    return Injection(
        id=fresh_id(),
        fault=fault.name,
        at=time.time(),
        node=target.node,
        rank=target.rank,
        draw=target.draw,
        attempt=target.attempt,
        part_of=target.part_of,
    )


def _strike(fault: Fault, intent: Injection, means: Means, truth: Truth, lasts_s: float | None) -> Injection:
    truth.append(intent)
    try:
        struck = means.strike(fault, intent, lasts_s if lasts_s is not None else fault.lasts_s)
    except BaseException as error:
        truth.append(replace(intent, outcome=Outcome.FAILED, note=_why(error)))
        raise
    done = replace(intent, outcome=Outcome.DONE, at=struck.at, note=struck.note)
    truth.append(done)
    return done


def _both(pair: Pair, target: Target, whole: Injection, means: Means, truth: Truth) -> Injection:
    """The first, and the second when its moment has come; what was done of them is undone where one could not be."""
    truth.append(whole)
    first, second = by_name(pair.first), by_name(pair.second)
    attempt = target.attempt or 0
    try:
        done = _strike(first, _intent(first, replace(target, part_of=whole.id)), means, truth, None)
        if pair.moment is not Moment.DETECTION:
            await_attempt(target.paths, attempt, SECOND_S, trains=pair.moment is Moment.LOAD)
        now = placing(target.paths, training=False)
        wish = Wish(seed=int(target.draw.get("seed") or 0) + 1, avoid=(target.node,))
        then = replace(choose(second, target.paths, now, wish), part_of=whole.id)
        _strike(second, _intent(second, then), means, truth, None)
    except BaseException as error:
        failed = replace(whole, outcome=Outcome.FAILED, note=_why(error))
        truth.append(failed)
        undo(failed, means, truth)
        raise
    said = replace(whole, outcome=Outcome.DONE, at=done.at, note=f"{pair.first}, then {pair.second} at {pair.moment}")
    truth.append(said)
    return said


def _why(error: BaseException) -> str:
    return str(error) if isinstance(error, FtslurmError) else f"interrupted: {type(error).__name__}"
