"""What a plan is made from, read from the state of the run: the nodes, the budgets, and what was measured so far."""

from __future__ import annotations

from dataclasses import replace

from ftslurm.core.actions import Action
from ftslurm.core.events import Event
from ftslurm.core.health import fit_nodes
from ftslurm.core.placement import Places
from ftslurm.core.pricing import RESTART_S
from ftslurm.core.recovery import Policy, Situation, fruitless_after
from ftslurm.core.state import Run, SavedState
from ftslurm.core.survey import NodesSurveyed, QueueEstimated

FRESH_S = 1800.0
"""How long an estimate of the queue's wait is believed."""
KEPT_RESTARTS = 8
NODE_MTBF_S = 154 * 86400.0
"""6.5 failures in 1000 node-days: "Revisiting Reliability in Large-Scale Machine Learning Research Clusters", 2024."""


def on_queue(run: Run, event: QueueEstimated, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Keep the newest estimate with its age; what became unknown is unknown."""
    del policy
    return replace(run, survey=replace(run.survey, wait_s=event.wait_s, asked_mono=event.mono)), ()


def on_nodes(run: Run, event: NodesSurveyed, policy: Policy) -> tuple[Run, tuple[Action, ...]]:
    """Keep what is known of the nodes."""
    del policy
    places = Places(switches=dict(event.switches), loads=dict(event.loads))
    return replace(run, survey=replace(run.survey, places=places)), ()


def clocked(run: Run, event: Event) -> Run:
    """Return the run at the moment of the event that is being considered."""
    return replace(run, now=event.mono, wall=event.at)


def ruled(run: Run, policy: Policy) -> Policy:
    """Return the policy as it is for this job: how it can be gone on from was found out when it started."""
    known = run.continue_by or policy.continue_by
    return policy if known == policy.continue_by else replace(policy, continue_by=known)


def restamped(run: Run) -> Run:
    """Return the run with every moment set to now: a new supervisor's clock may be another host's.

    What was trained before it came is not in its prices then: they are the same term in every plan.
    """
    saved = tuple(each if each.since_mono is None else replace(each, since_mono=run.now) for each in run.saved)
    attempt = run.attempt and replace(run.attempt, launched_mono=run.now, trained_since=run.now)
    named = None if run.drain_named is None else run.now
    asked = None if run.asked_mono is None else run.now
    run = replace(run, drain_named=named, asked_mono=asked)
    return replace(run, saved=saved, attempt=attempt, survey=replace(run.survey, wait_s=None))


def released(run: Run) -> Run:
    """Return the run with one more restart measured: from the launch to the release of the ranks."""
    attempt = run.current
    took_s = max(run.now - attempt.launched_mono, 0.0)
    restarts = (*run.restarts, round(took_s, 3))[-KEPT_RESTARTS:]
    return replace(run, attempt=replace(attempt, trained_since=run.now), restarts=restarts)


def situation_of(run: Run, policy: Policy, *, repeated: bool) -> Situation:
    """Return what a plan for the run depends on."""
    attempt = run.current
    ordered = sorted(run.restarts)
    return Situation(
        nodes=attempt.nodes,
        live=fit_nodes(run, policy),
        wanted=run.wanted,
        no_kill=run.no_kill,
        lost=run.incident,
        attempts=len(run.failures),
        fruitless=fruitless_after(run.cause_history()),
        repeated=repeated,
        requeues=run.requeues,
        remaining_s=None if run.end_time is None else max(run.end_time - run.wall, 0.0),
        places=run.survey.places,
        restart_s=ordered[len(ordered) // 2] if ordered else RESTART_S,
        redo_s=_redo_s(run),
        interval_s=_interval_s(run),
        stepped=run.stepped,
        queue_wait_s=run.survey.wait_s if run.now - run.survey.asked_mono <= FRESH_S else None,
    )


def mtbf_s(run: Run) -> float:
    """Return the expected time between failures of the run: that of its nodes, and what was seen, as if once more."""
    nodes = max(len(run.attempt.nodes) if run.attempt else run.wanted, 1)
    return (NODE_MTBF_S / nodes + max(run.now - run.started_mono, 0.0)) / (1 + len(run.failures))


def _good(run: Run) -> list[float]:
    """When the checkpoints that count came to be, oldest first."""
    good = (SavedState.LOCAL, SavedState.DURABLE)
    return sorted(each.since_mono for each in run.saved if each.since_mono is not None and each.state in good)


def _redo_s(run: Run) -> float:
    """How long the attempt has trained since its newest checkpoint, or since its release without one."""
    attempt = run.current
    if not attempt.released:
        return 0.0
    return max(run.now - max([attempt.trained_since, *_good(run)[-1:]]), 0.0)


def _interval_s(run: Run) -> float:
    """The time between the last two checkpoints, 0 where there are not two."""
    good = _good(run)
    return good[-1] - good[-2] if len(good) > 1 else 0.0
