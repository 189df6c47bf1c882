"""The ETTR of the same run under other ways of failing, simulated: what a closed form cannot know.

Costs, interval and rate are those of the forecast; failures come as `plan.generators` have them, and `core.recovery`
decides. As in the closed forms the world is always whole: a failure costs its node, and the job goes on with another
one, a spare where the forecast counts no wait, else after a requeue. Attempts have no limit. A single run may do better
or worse than the mean: the spread of the simulated runs is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from pydantic import ValidationError

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
from ftslurm.sections import Recovery

KINDS = {
    "exponential": "as the formula: equal nodes, independent, without memory",
    "weibull": "failures come in clusters: gaps with shape 0.62, as in the InfiniteHBD trace",
    "lemons": "15 % of the nodes fail five times as often (AIReSim's default)",
    "clustered": "relapses, bursts, bad nodes and bad weeks, fitted to the InfiniteHBD trace",
}
REPLICATIONS = 8
FAILURES, FEWEST, FAILING_NODES = 120, 15, 400_000
"""Of each simulated run so many are expected, fewer in a large world, whose requeues take long to simulate."""
TITLE = "ettr under other ways of failing"
LEAST_S = 60.0
LONGEST_S = 5 * 365 * 86400.0
SURELY = 0.999
MEDIAN_OF_MEAN = 20.4 / 132.8
"""Of repairs: half take no longer than this share of the mean (InfiniteHBD trace)."""
ALWAYS = 1_000_000
ENOUGH = 4
MOST_NODES = 200_000


def under_models(inputs: Inputs, interval_s: float) -> Part:
    """Return the mean ETTR under each way of failing, for saves that lie `interval_s` of work apart."""
    why = _hopeless(inputs)
    cases: tuple[Case, ...] = ()
    try:
        cases = () if why else tuple(Case(swept=(), scenario=scenario(inputs, interval_s, kind)) for kind in KINDS)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))} is more or less than can be simulated: {first['msg']}"
    if why:
        return Part("models", TITLE, (table.words("none", "simulated", "not", why),))
    results = run(Study(keys=(), cases=cases), 1, lambda _done, _total: None)
    rows = (row for kind, result in zip(KINDS, results, strict=True) for row in _rows(kind, result))
    return Part("models", TITLE, tuple(rows))


def _hopeless(inputs: Inputs) -> str:
    if inputs.rate.per_second * inputs.repair.value > 1:
        return "a node is in repair for longer than it works"
    if _failures(inputs.nodes) * inputs.mttf_s < LEAST_S:
        return f"with a failure every {took(inputs.mttf_s)} there is nothing to be told apart"
    return ""


def scenario(inputs: Inputs, interval_s: float, kind: str) -> Scenario:
    """Return the run of the forecast as something to simulate."""
    failures = _failures(inputs.nodes)
    span_s = min(failures * inputs.mttf_s, LONGEST_S)
    # In a small world idle nodes would fail as often as those that work, and be of no use.
    held = round(failures + 5 * sqrt(failures)) if inputs.wait.value == 0 and inputs.nodes > 2 * failures else 0
    away = spares(inputs.nodes, inputs.rate.per_second, inputs.repair.value, SURELY)
    return Scenario.model_validate(
        {
            "nodes": inputs.nodes,
            "fleet": min(inputs.nodes + held + ENOUGH * away + 1, MOST_NODES),
            "replications": REPLICATIONS,
            "span": format_duration(round(span_s)),
            "restart": format_duration(inputs.restart.value),
            "resume_after": "0s",
            "faults": {"kind": kind, "rate": inputs.rate.per_1000_node_days, "node_share": 1.0},
            "detection": {"delay": format_duration(inputs.detect.value), "diagnosis": "0s"},
            "repair": _repair(inputs.repair.value),
            "requeue": {"delay": format_duration(inputs.wait.value)},
            "checkpoint": {"every": format_duration(round(interval_s, 3)), "stall": format_duration(inputs.save.value)},
            "recovery": Recovery(
                spares=held, min_nodes=inputs.nodes, max_attempts=ALWAYS, no_progress_limit=ALWAYS, prefer=("requeue",)
            ),
        }
    )


def _failures(nodes: int) -> int:
    return min(FAILURES, max(FAILING_NODES // nodes, FEWEST))


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
