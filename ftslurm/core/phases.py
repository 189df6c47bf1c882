"""The phases of a run and the legal ways between them, as data.

Only our own actions move a run, so a move that is not in the table is our bug: it raises and changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.events import Phase
from ftslurm.core.state import Run
from ftslurm.errors import IllegalTransition

LEGAL: dict[Phase, frozenset[Phase]] = {
    Phase.SUBMITTED: frozenset({Phase.STARTING}),
    Phase.STARTING: frozenset({Phase.TRAINING, Phase.SUSPECTING, Phase.STOPPING, Phase.DRAINING}),
    Phase.TRAINING: frozenset({Phase.SUSPECTING, Phase.STOPPING, Phase.DRAINING}),
    Phase.SUSPECTING: frozenset({Phase.TRAINING, Phase.STOPPING, Phase.DRAINING}),
    Phase.STOPPING: frozenset({Phase.PLANNING, Phase.DRAINING}),
    Phase.PLANNING: frozenset({Phase.RELAUNCHING, Phase.DRAINING}),
    Phase.RELAUNCHING: frozenset({Phase.TRAINING, Phase.SUSPECTING, Phase.STOPPING, Phase.DRAINING}),
    Phase.DRAINING: frozenset({Phase.FINISHED, Phase.FAILED, Phase.REQUEUED, Phase.CANCELLED, Phase.STOPPED}),
    Phase.REQUEUED: frozenset(),
    Phase.FINISHED: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.CANCELLED: frozenset(),
    Phase.STOPPED: frozenset(),
}
"""Beside these, a new incarnation (a requeued job, a resume) starts from any phase: `core.run.on_allocation`."""

LAUNCHING = frozenset({Phase.STARTING, Phase.RELAUNCHING})
LIVE = frozenset({Phase.TRAINING, Phase.SUSPECTING})


def enter(run: Run, phase: Phase) -> Run:
    """Return the run in another phase.

    Raises:
        IllegalTransition: the table does not allow it.
    """
    if phase is run.phase:
        return run
    if phase not in LEGAL[run.phase]:
        raise IllegalTransition(f"a run that is {run.phase} cannot become {phase}")
    return replace(run, phase=phase)
