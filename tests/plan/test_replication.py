from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist

import pytest

from ftslurm.plan.replication import Estimate, estimate, run, student
from ftslurm.plan.study import Study, parse
from ftslurm.plan.telling import assumptions, document, formula, preview

SCENARIO = """
nodes: 64
span: 20d
replications: 30
fleet: 80
faults: {rate: 40}
checkpoint: {stall: 10s}
recovery: {spares: 2, max_attempts: 1000}
sweep: {faults.kind: [exponential, clustered]}
"""


@pytest.fixture(scope="module")
def study() -> Study:
    """Two cases of thirty runs."""
    return parse(SCENARIO, "s.yaml", Path())


@pytest.fixture(scope="module")
def told(study: Study) -> str:
    """The report of the study as one process makes it."""
    return json.dumps(document(study, run(study, 1, lambda done, total: None)))


def test_the_report_does_not_depend_on_the_processes(study: Study, told: str) -> None:
    """Two make the same as one, byte for byte, and tell how far they are."""
    seen: list[tuple[int, int]] = []
    results = run(study, 2, lambda done, total: seen.append((done, total)))
    assert json.dumps(document(study, results)) == told
    assert seen[-1] == (60, 60)


def test_another_seed_makes_another_report(told: str) -> None:
    """Only the seed decides what is drawn."""
    other = parse(SCENARIO + "seed: 2\n", "s.yaml", Path())
    cases = document(other, run(other, 1, lambda done, total: None))["cases"]
    assert cases != json.loads(told)["cases"]


def test_a_report_says_what_it_rests_on(study: Study, told: str) -> None:
    """Shares sum to 1, means lie in their intervals, and every number has its assumptions beside it."""
    value = json.loads(told)
    assert value["assumptions"] == list(assumptions(study))
    for case in value["cases"]:
        assert sum(case["spent"].values()) == pytest.approx(1, abs=1e-5)
        assert case["ettr"]["low"] < case["ettr"]["mean"] < case["ettr"]["high"]
        assert case["goodput"]["mean"] <= case["ettr"]["mean"]
        assert case["counts"]["failures"] == pytest.approx(20 * 64 * 0.04, rel=0.5)
    assert [each["case"] for each in preview(study)] == [case["case"] for case in value["cases"]]
    assert value["cases"][0]["formula"] == round(formula(run(study, 1, lambda *_: None)[0].terms) or 0, 6)


# Student's 97.5 % quantiles: any table.
@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.706), (2, 4.3027), (3, 3.1824), (4, 2.7764), (7, 2.3646), (9, 2.2622), (29, 2.0452), (999, 1.9623)],
)
def test_students_quantiles(degrees: int, expected: float) -> None:
    """They are those of the tables."""
    assert student(degrees) == pytest.approx(expected, rel=0.004 if degrees == 3 else 0.001 if degrees < 7 else 1e-4)


def test_estimates() -> None:
    """A single value has no interval; of many the interval is the normal one; equal ones have none to speak of."""
    assert estimate([0.5]) == Estimate(0.5, None, None)
    assert estimate([0.5, 0.5]) == Estimate(0.5, 0.5, 0.5)
    many = [float(number % 2) for number in range(100_000)]
    half = NormalDist().inv_cdf(0.975) * 0.5 / math.sqrt(len(many))
    found = estimate(many)
    assert found.high == pytest.approx(0.5 + half, rel=1e-4)
