"""The suspect rule: a checkpoint from which training dies again and again may be what kills it, right bytes or not.

Two attempts that were started from the same checkpoint, and ended without progress by the program's own error or a
loss that is no number, make it suspect: it is kept, and never restored again. The next older one gets one chance; the
rule of the same error twice decides after that. So a spoilt checkpoint costs one more attempt, and an error of the
program does not undo checkpoint after checkpoint.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Say
from ftslurm.core.diagnosis import Cause
from ftslurm.core.recovery import ENVIRONMENT_CAUSES
from ftslurm.core.state import Failure, Run, SavedState

OF_THE_PROGRAM = frozenset({Cause.APPLICATION_ERROR, Cause.NAN})


def judge(run: Run, failure: Failure) -> tuple[Run, Failure, tuple[Say, ...]]:
    """Return the run with the checkpoint of a failed attempt demoted, where that is what follows, and what is said."""
    if not _kills(run, failure):
        return run, failure, ()
    saved = run.find_saved(failure.generation)
    if saved is None or saved.state not in (SavedState.LOCAL, SavedState.DURABLE):
        return run, failure, ()
    without = run.with_saved(replace(saved, state=SavedState.SUSPECT))
    older = without.restorable()
    if older is None:
        return run, failure, ()
    text = (
        f"checkpoint {saved.generation} is suspect: two attempts that were started from it ended without progress by"
        f" the program's own error; it is kept and not used any more, and {older.generation} gets one chance"
    )
    said = Say(text=text, slug="checkpoint_suspect", facts={"generation": saved.generation})
    return without, replace(failure, demoted=saved.generation), (said,)


def _kills(run: Run, failure: Failure) -> bool:
    """Tell whether two attempts in a row died from the same checkpoint, and nothing was demoted for that error yet."""
    before = [each for each in run.failures if each.diagnosis.cause not in ENVIRONMENT_CAUSES]
    if not failure.generation or not before or not (_blames(failure) and _blames(before[-1])):
        return False
    signature = failure.diagnosis.signature
    demoted = any(each.demoted and each.diagnosis.signature == signature for each in run.failures)
    return before[-1].generation == failure.generation and not demoted


def _blames(failure: Failure) -> bool:
    return not failure.progressed and failure.diagnosis.cause in OF_THE_PROGRAM
