"""What a study says: the numbers of each case, and the assumptions behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

from ftslurm.core.recovery import Kind
from ftslurm.insight.text import took
from ftslurm.plan.losses import Costs, ettr
from ftslurm.plan.rates import PRESETS
from ftslurm.plan.replication import Estimate, Result, shares
from ftslurm.plan.scenario import Scenario
from ftslurm.plan.study import Study
from ftslurm.plan.terms import Terms, terms_of

DIGITS = 6
PLANS = {
    Kind.RELAUNCH: "relaunches",
    Kind.SPARE: "spares_used",
    Kind.SHRINK: "shrinks",
    Kind.REQUEUE: "requeues",
    Kind.ABORT: "given_up",
}


def formula(terms: Terms) -> float | None:
    """Return the ETTR that the closed form expects of a whole world; None where it has nothing to say.

    Exact for failures at random, a restart that may fail as well, and no wait for nodes (`plan.losses`).
    """
    copies = terms.copies
    if copies.interval_s == inf:
        return None if terms.mttf_s < inf else 1.0
    costs = Costs(save_s=copies.stall_s, detect_s=terms.detect_s + terms.diagnose_s, restart_s=terms.restart_s)
    return ettr(copies.interval_s, costs, terms.mttf_s) if terms.mttf_s < inf else None


def document(study: Study, results: Sequence[Result]) -> dict[str, Any]:
    """Return all numbers, ready for JSON; the same study gives the same, to the last digit."""
    return {
        "scenario": study.first.model_dump(mode="json", by_alias=True),
        "assumptions": list(assumptions(study)),
        "swept": list(study.keys),
        "cases": [_case(each) for each in results],
    }


def _case(result: Result) -> dict[str, Any]:
    terms = result.terms
    expected = formula(terms)
    return {
        "case": dict(result.case.swept),
        "replications": len(result.outcomes),
        "ettr": _plain(result.estimate(lambda each: each.ettr)),
        "goodput": _plain(result.estimate(lambda each: each.goodput)),
        "formula": None if expected is None else round(expected, DIGITS),
        "expected_mttf_s": _number(terms.mttf_s),
        "interval_s": _number(terms.copies.interval_s),
        "spent": {name: round(share, DIGITS) for name, share in shares(result.outcomes).items()},
        "lost_work_s": _number(result.mean(lambda each: each.lost_work_s)),
        "counts": {name: round(value, DIGITS) for name, value in counts(result)},
    }


def counts(result: Result) -> Iterator[tuple[str, float]]:
    """Yield what was counted in a run, each as its mean over all replications."""
    yield "failures", result.mean(lambda each: each.failures)
    for kind, name in PLANS.items():
        yield name, result.mean(lambda each, kind=kind: each.plans[kind])  # type: ignore[misc]
    yield "right_exclusions", result.mean(lambda each: each.right_exclusions)
    yield "wrong_exclusions", result.mean(lambda each: each.wrong_exclusions)
    yield "spares_lost", result.mean(lambda each: each.spares_lost)
    yield "saves", result.mean(lambda each: each.saves)


def _plain(found: Estimate) -> dict[str, float | None]:
    return {"mean": _number(found.mean), "low": _number(found.low), "high": _number(found.high)}


def _number(value: float | None) -> float | None:
    """Infinite and unknown are null in JSON."""
    return None if value is None or value == inf else round(value, DIGITS)


def assumptions(study: Study) -> Iterator[str]:
    """Yield what the numbers rest on, a sentence each; of what is swept the first case is told."""
    scenario = study.first
    yield _of_rate(study)
    yield _of_repairs(scenario)
    yield (
        f"a failure is known after {took(scenario.detection.delay)} and diagnosed {took(scenario.detection.diagnosis)}"
        f" later; {scenario.detection.wrong_diagnoses:.1%} of the diagnoses are wrong, and a healthy node is given up"
        f" {scenario.detection.wrong_exclusions:g} times in 1,000 node-days"
    )
    yield (
        f"a restart takes {took(scenario.restart)} or as long as reading the checkpoint; a requeue"
        f" {took(scenario.requeue.delay)} and {took(scenario.requeue.wait)} in the queue, which the planner"
        f" {'knows' if scenario.requeue.wait_known else 'does not know'}"
    )
    yield (
        f"a run that gives up stands still for {took(scenario.resume_after)}, until somebody resumes it:"
        f" max_attempts is {scenario.recovery.max_attempts}, no_progress_limit {scenario.recovery.no_progress_limit}"
    )
    yield "what follows a failure is decided by the rules and prices of a live run; work is done at an even speed"
    yield "formula: the exact renewal formula for failures at random in a world that is always whole"
    if study.keys:
        yield f"of what is swept ({', '.join(study.keys)}) the first values are told here"


def _of_rate(study: Study) -> str:
    scenario, trace = study.first, study.cases[0].trace
    if trace is not None:
        rate = 1000 * len(trace.outages) / (trace.nodes * trace.span_s / 86400)
        text = (
            f"faults are those of the trace ({rate:.2f} in 1,000 node-days), {scenario.node_share:.0%} cost their node"
        )
        return f"{text}; nothing else fails"
    given = scenario.faults.rate
    source = f" ({PRESETS[given].source})" if isinstance(given, str) and scenario.faults.mtbf is None else ""
    return (
        f"faults are {scenario.faults.kind}, {scenario.rate:.4g} in 1,000 node-days{source}, of all wall time in which"
        f" a node is up; {scenario.node_share:.0%} cost their node, the others come at random"
    )


def _of_repairs(scenario: Scenario) -> str:
    repair = scenario.repair
    some = f"{repair.repairers} at a time" if repair.repairers else "all at a time"
    text = f"lost nodes are repaired {some}, each as long as in the trace"
    if scenario.faults.kind != "trace":
        text = f"lost nodes are repaired {some}, in a median of {took(repair.median)} and a mean of {took(repair.mean)}"
    return f"{text}; a run gets them back at a requeue, where others are too few, from {scenario.among} nodes in all"


def preview(study: Study) -> list[dict[str, Any]]:
    """Return what is known of each case before anything is simulated, ready for JSON."""
    found = []
    for case in study.cases:
        terms = terms_of(case)
        expected = formula(terms)
        found.append(
            {
                "case": dict(case.swept),
                "replications": case.scenario.replications,
                "formula": None if expected is None else round(expected, DIGITS),
                "expected_mttf_s": _number(terms.mttf_s),
                "expected_failures": round(terms.span_s / terms.mttf_s, DIGITS),
                "interval_s": _number(terms.copies.interval_s),
            }
        )
    return found
