"""When nobody of an old attempt can write any more to a folder that a program shares over attempts.

In the store only the supervisor commits, and only for the live attempt: what a forgotten rank still writes there is
nothing. A folder of the program's own (`mode: in-place`) has no such guard. So a node that was given up and has not
confirmed that its ranks are gone is waited for until its agent must have ended them: with nobody to hear it does so
after `deadman_after`. It heard somebody last before it was given up, hence the time counts from there.
"""

from __future__ import annotations

from ftslurm.core.recovery import Policy
from ftslurm.core.state import Run

MARGIN_S = 2.0
"""For the killing itself, and for clocks that do not run alike."""


def doubtful(run: Run) -> tuple[str, ...]:
    """Return the nodes of the attempt of which nobody knows whether its ranks are gone."""
    attempt = run.attempt
    if attempt is None or not attempt.released:
        return ()  # the wrappers wait: the program has not begun
    left = {node for rank, node in enumerate(attempt.placement) if rank not in attempt.ended}
    return tuple(
        node for node in attempt.nodes if node in run.condemned and node not in attempt.fenced and node in left
    )


def wait_s(run: Run, policy: Policy) -> float:
    """Return for how long an attempt may not be followed by another one; 0 where nothing of it can write."""
    if not policy.in_place:
        return 0.0
    over = [run.fallen.get(node, 0.0) + policy.deadman_s + MARGIN_S for node in doubtful(run)]
    return max(max(over, default=0.0) - run.now, 0.0)
