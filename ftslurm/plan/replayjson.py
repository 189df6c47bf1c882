"""A comparison as plain data for JSON: stable keys, null for what is not known."""

from __future__ import annotations

from typing import Any

from ftslurm.insight.export import times
from ftslurm.plan.assumed import Assumed
from ftslurm.plan.comparison import Comparison, Projection
from ftslurm.plan.otherpolicy import Change
from ftslurm.plan.projection import Outcome
from ftslurm.plan.replay import Choice, Decision, Difference, Mismatch
from ftslurm.plan.replaytext import assumptions

SCHEMA = 1


def document(found: Comparison) -> dict[str, Any]:
    """The whole comparison."""
    told = found.replayed
    return {
        "meta": {"schema": SCHEMA},
        "run": {"run_id": found.paths.run_id, "run_dir": str(found.paths.root)},
        "policy": None if found.file is None else str(found.file),
        "changes": [_change(each) for each in found.other.changes] if found.other else [],
        "entries": told.entries,
        "as_recorded": told.mismatch is None,
        "mismatches": told.mismatches,
        "first_mismatch": None if told.mismatch is None else _mismatch(told.mismatch),
        "decisions": [_decision(each, with_other=found.other is not None) for each in told.decisions],
        "differences": [_difference(each) for each in told.differences],
        "leaves_record_at": None if told.first is None else told.first.number,
        "waits_without_difference": told.harmless,
        "projection": None if found.projection is None else _projection(found.projection),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "key": change.key,
        "own": change.own,
        "other": change.other,
        "replayed": change.counts,
        "why_not": change.why or None,
        "remark": change.remark or None,
    }


def _mismatch(found: Mismatch) -> dict[str, Any]:
    return {
        "entry": found.number,
        **times("t", found.t),
        "event": found.event,
        "recorded": list(found.recorded),
        "now": list(found.now),
    }


def _decision(each: Decision, *, with_other: bool) -> dict[str, Any]:
    return {
        "entry": each.number,
        **times("t", each.t),
        "attempt": each.attempt,
        "cause": each.found.cause,
        "cause_reason": each.found.reason,
        "own": _choice(each.own),
        "other": _choice(each.other) if with_other else None,
        "same": each.same if with_other else None,
    }


def _choice(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    plan = choice.plan
    return {
        "kind": plan.kind,
        "nodes": list(plan.nodes),
        "reason": plan.reason,
        "price_node_s": _number(choice.price_node_s),
        "price": plan.price or None,
        "rejected": [{"kind": kind, "reason": reason} for kind, reason in plan.rejected],
    }


def _difference(each: Difference) -> dict[str, Any]:
    return {
        "entry": each.number,
        **times("t", each.t),
        "at": each.at,
        "own": list(each.own),
        "other": list(each.other),
        "count": each.count,
    }


def _projection(found: Projection) -> dict[str, Any]:
    return {
        "recorded_interval_s": _number(found.found.interval_s),
        "measured": _outcome(found.measured),
        "own": _outcome(found.own),
        "other": None if found.other is None else _outcome(found.other),
        "own_assumed": _assumed(found.own_assumed),
        "other_assumed": None if found.other_assumed is None else _assumed(found.other_assumed),
        "assumptions": assumptions(found),
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "time_s": _number(outcome.took_s),
        "ettr": None if outcome.ettr is None else round(outcome.ettr, 6),
        "spent_s": {category: _number(seconds) for category, seconds in outcome.spent.items()},
        "useful_node_s": _number(outcome.useful),
        "lost_node_s": _number(outcome.lost_node_s),
        "lost_to_node_s": {term: _number(lost) for term, lost in outcome.lost.items()},
        "idle_spares_node_s": _number(outcome.idle),
        "attempts": outcome.attempts,
        "requeues": outcome.requeues,
        "failures_unmet": outcome.unmet,
        "plans": [{**times("t", t), "kind": kind} for t, kind in outcome.plans],
        "end": outcome.end,
    }


def _assumed(assumed: Assumed) -> dict[str, Any]:
    return {
        "start_s": _number(assumed.start_s),
        "restart_s": _number(assumed.restart_s),
        "load_s": _number(assumed.load_s),
        "queue_s": _number(assumed.queue_s),
        "interval_s": _number(assumed.interval_s),
        "pause_s": _number(assumed.pause_s),
    }


def _number(value: float | None) -> float | None:
    """Rounded to the millisecond; null for what is not known, or never comes."""
    return None if value is None or value == float("inf") else round(value, 3)
