"""The ETTR of the same run under other ways of failing, simulated: what a closed form cannot know.

Costs, interval and rate are those of the forecast; failures come as `plan.generators` have them, and `core.recovery`
decides. As in the closed forms, the world is always whole: where the forecast counts no wait there are spares enough,
else every failure leads to a requeue, for which Slurm has nodes enough. Every failure costs its node, and attempts have
no limit. A single run may do better or worse than the mean: the spread of the simulated runs is said.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftslurm.insight.text import took
from ftslurm.plan import table
from ftslurm.plan.inputs import Inputs
from ftslurm.plan.outcome import Outcome
from ftslurm.plan.reliability import spares
from ftslurm.plan.replication import Result, run
from ftslurm.plan.scenario import Scenario
from ftslurm.plan.study import Case, Study
from ftslurm.plan.table import Part, Row
from ftslurm.quantities import format_duration

KINDS = {
    "exponential": "as the formula: equal nodes, independent, without memory",
    "weibull": "failures come in clusters: gaps with shape 0.62, as in the InfiniteHBD trace",
    "lemons": "15 % of the nodes fail five times as often (AIReSim's default)",
    "clustered": "relapses, bursts, bad nodes and bad weeks, fitted to the InfiniteHBD trace",
}
REPLICATIONS, FAILURES = 8, 120
"""So many runs of so many expected failures: the mean is then known to about a point."""
LONGEST_S = 5 * 365 * 86400.0
SURELY = 0.999
MEDIAN_OF_MEAN = 20.4 / 132.8
"""Of repairs: half take no longer than this share of the mean (InfiniteHBD trace)."""
ALWAYS = 1_000_000
ENOUGH = 4


def under_models(inputs: Inputs, interval_s: float) -> Part:
    """Return the mean ETTR under each way of failing, for saves that lie `interval_s` of work apart."""
    cases = tuple(Case(swept=(), scenario=scenario(inputs, interval_s, kind)) for kind in KINDS)
    results = run(Study(keys=(), cases=cases), 1, lambda _done, _total: None)
    rows = (row for kind, result in zip(KINDS, results, strict=True) for row in _rows(kind, result))
    return Part("models", "ettr under other ways of failing", tuple(rows))


def scenario(inputs: Inputs, interval_s: float, kind: str) -> Scenario:
    """Return the run of the forecast as something to simulate."""
    recovery = inputs.config.recovery
    span_s = min(max(FAILURES * inputs.mttf_s, 3600.0), LONGEST_S)
    away = spares(inputs.nodes, inputs.rate.per_second, inputs.repair.value, SURELY)
    held = 0 if inputs.wait.value else ENOUGH * FAILURES
    return Scenario.model_validate(
        {
            "nodes": inputs.nodes,
            "fleet": min(inputs.nodes + held + ENOUGH * away + 1, 200_000),
            "replications": REPLICATIONS,
            "span": format_duration(round(span_s)),
            "restart": format_duration(inputs.restart.value),
            "resume_after": "0s",
            "faults": {"kind": kind, "rate": inputs.rate.per_1000_node_days, "node_share": 1.0},
            "detection": {"delay": format_duration(inputs.detect.value), "diagnosis": "0s"},
            "repair": _repair(inputs.repair.value),
            "requeue": {"wait": format_duration(inputs.config.plan.queue_wait or 0.0)},
            "checkpoint": {
                "every": format_duration(max(round(interval_s, 3), 0.1)),
                "stall": format_duration(inputs.save.value),
            },
            "recovery": recovery.model_copy(
                update={"spares": held, "max_attempts": ALWAYS, "no_progress_limit": ALWAYS, "prefer": ()}
            ),
        }
    )


def _repair(mean_s: float) -> dict[str, str]:
    median_s = max(round(mean_s * MEDIAN_OF_MEAN), 1)
    return {"median": format_duration(median_s), "mean": format_duration(max(round(mean_s), median_s))}


def _rows(kind: str, result: Result) -> Iterator[Row]:
    found = result.estimate(_ettr)
    each = sorted(map(_ettr, result.outcomes))
    spread = f"single runs of {took(result.terms.span_s)}: {table.percent(each[0])} to {table.percent(each[-1])}"
    yield table.share(kind, kind, found.mean, f"{KINDS[kind]}; {spread}")


def _ettr(outcome: Outcome) -> float:
    return outcome.ettr
