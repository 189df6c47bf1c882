"""One fault, made and undone, with the truth about it written down: first the intent, then the act."""

from __future__ import annotations

import time
from dataclasses import replace

from ftslurm.errors import FtslurmError
from ftslurm.faults.catalogue import by_name
from ftslurm.faults.deeds import Pair
from ftslurm.faults.fault import Fault
from ftslurm.faults.means import Means, Target
from ftslurm.faults.truth import Injection, Outcome, Truth, fresh_id


def inject(
    fault: Fault, target: Target, means: Means, truth: Truth, lasts_s: float | None = None
) -> Injection:
    """Make a fault and return what was done. Undo it with `undo`, also when something goes wrong meanwhile.

    Raises:
        FtslurmError: it could not be made; that it could not is recorded.
    """
    intent = Injection(
        id=fresh_id(),
        fault=fault.name,
        at=time.time(),
        node=target.node,
        rank=target.rank,
        draw=target.draw,
        attempt=target.attempt,
    )
    truth.append(intent)
    try:
        struck = means.strike(fault, intent, lasts_s if lasts_s is not None else fault.lasts_s)
    except BaseException as error:
        why = str(error) if isinstance(error, FtslurmError) else f"interrupted: {type(error).__name__}"
        truth.append(replace(intent, outcome=Outcome.FAILED, note=why))
        raise
    done = replace(intent, outcome=Outcome.DONE, at=struck.at, note=struck.note)
    truth.append(done)
    return done


def undo(injection: Injection, means: Means, truth: Truth) -> Injection:
    """Undo it, and record when; nothing happens where nothing is to be undone, or it was undone before.

    Raises:
        FtslurmError: it could not be undone.
    """
    fault = by_name(injection.fault)
    if not fault.undo or injection.undone_at is not None:
        return injection
    mended = replace(injection, undone_at=means.undo(fault, injection))
    truth.append(mended)
    return mended
