from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftslurm.core.lemons import Mark
from ftslurm.errors import ServiceUnavailable
from ftslurm.ledger import Writer
from ftslurm.plan.gamma import lower, poisson_at_most, quantile, upper
from ftslurm.plan.rates import BAD, GOOD, PRESETS, TYPICAL, WEAK, Prior, learnt, posterior
from ftslurm.slurm import parse
from ftslurm.slurm.client import Answer, SlurmClient

NOW = 1_800_000_000.0
DAY = 86400


class Accounting(SlurmClient):
    """A client whose sacct says what a test wants; `said` None: that accounting is off."""

    def __init__(self, said: str | None, error: str = "Slurm accounting storage is disabled") -> None:
        super().__init__()
        object.__setattr__(self, "said", said)
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "asked", [])

    def run(self, argv, *, timeout_s=None, stdin=""):
        self.asked.append((tuple(argv), timeout_s))
        if self.said is None:
            return Answer(argv=tuple(argv), returncode=1, stdout="", stderr=self.error)
        return Answer(argv=tuple(argv), returncode=0, stdout=self.said, stderr="")


def row(job: str, state: str, nodes: int, days: float, end: float = NOW) -> str:
    """A line of sacct's."""
    elapsed = int(days * DAY)
    return parse.SEPARATOR.join((job, job, state, str(nodes), str(elapsed), str(int(end - elapsed)), str(int(end))))


def sure(found: float, wanted: float) -> bool:
    """Equal but for the last digits."""
    return math.isclose(found, wanted, rel_tol=1e-11)


@pytest.mark.parametrize(
    ("shape", "x", "wanted"),
    [
        (1.0, 2.0, 1 - math.exp(-2)),
        (5.0, 3.0, 1 - math.exp(-3) * (1 + 3 + 4.5 + 4.5 + 3.375)),
        (0.5, 0.5, math.erf(math.sqrt(0.5))),
        (0.5, 8.0, math.erf(math.sqrt(8.0))),
        (3.0, 0.0, 0.0),
    ],
)
def test_the_incomplete_gamma_function_has_its_known_values(shape, x, wanted):
    """P(1, x), P(5, x) and P(1/2, x) are elementary; Q is what is left."""
    assert sure(lower(shape, x), wanted)
    assert sure(upper(shape, x), 1 - wanted)


@pytest.mark.parametrize(
    ("degrees", "probability", "wanted"),
    [(1, 0.95, 3.841459), (2, 0.5, 1.386294), (10, 0.025, 3.246973), (10, 0.975, 20.483177), (200, 0.975, 241.0579)],
)
def test_quantiles_are_those_of_the_tables_of_chi_square(degrees, probability, wanted):
    """Chi-square with k degrees of freedom is twice a gamma of shape k/2 (NIST handbook, 1.3.6.7.4)."""
    assert 2 * quantile(degrees / 2, probability) == pytest.approx(wanted, rel=1e-6)


@settings(max_examples=40)
@given(shape=st.floats(0.05, 1e5), probability=st.floats(1e-6, 1 - 1e-6))
def test_a_quantile_has_its_probability(shape, probability):
    """P(a, quantile(a, p)) = p."""
    assert lower(shape, quantile(shape, probability)) == pytest.approx(probability, rel=1e-7, abs=1e-10)


@settings(max_examples=40)
@given(count=st.integers(0, 40), mean=st.fractions(0, 30, max_denominator=50))
def test_the_poisson_sum_is_the_sum(count, mean):
    """Term by term, in fractions."""
    terms, term = Fraction(1), Fraction(1)
    for number in range(1, count + 1):
        term *= mean / number
        terms += term
    assert poisson_at_most(count, float(mean)) == pytest.approx(float(terms) * math.exp(-mean), rel=1e-10)


def test_large_means_neither_overflow_nor_vanish():
    """Half of a Poisson variable lies below its mean, however large that is; e^-mean would be 0 long before."""
    assert poisson_at_most(1_000_000, 1e6) == pytest.approx(0.5, abs=1e-3)
    assert poisson_at_most(-1, 5.0) == 0.0
    assert poisson_at_most(990_000, 1e6) == pytest.approx(7.0e-24, rel=0.05)


@pytest.mark.parametrize(
    "call", [lambda: lower(0, 1), lambda: upper(1, -1), lambda: quantile(1, 1), lambda: quantile(1, 0)]
)
def test_what_has_no_probability_is_refused(call):
    """No shape, no negative x, no quantile at the ends."""
    with pytest.raises(ValueError, match=r"probability|quantile"):
        call()


def test_the_presets_are_the_published_ones():
    """2.34, 3.79 and 6.50, each with its source; the mean time between failures of jobs is that of the papers."""
    assert [each.per_1000_node_days for each in PRESETS.values()] == [2.34, 3.79, 6.50]
    assert all(name in each.source and "arXiv" in each.source for name, each in PRESETS.items())
    assert pytest.approx(1000 * 419 / (16384 / 8 * 54), abs=0.005) == TYPICAL.per_1000_node_days
    assert BAD.mttf_s(16384 // 8) / 3600 == pytest.approx(1.8, rel=0.03)
    assert BAD.mttf_s(131072 // 8) / 3600 == pytest.approx(0.23, rel=0.03)
    assert GOOD.mttf_s(0) == math.inf


def test_a_posterior_is_the_prior_and_then_the_data():
    """Nothing seen gives the prior; much gives faults over node-days, with the interval of a count."""
    assert posterior(0, 0).per_1000_node_days == pytest.approx(TYPICAL.per_1000_node_days)
    much = posterior(419, 110_592, Prior(faults=1e-9, node_days=1e-9))
    assert much.per_1000_node_days == pytest.approx(3.79, abs=0.01)
    assert (much.low, much.high) == pytest.approx((3.43, 4.16), abs=0.02)
    some, more = posterior(4, 1000), posterior(40, 10_000)
    assert some.low < more.low < more.per_1000_node_days < more.high < some.high
    with pytest.raises(ValueError, match="no rate"):
        posterior(-1, 5)


def test_a_rate_is_learnt_from_marks_and_accounting(tmp_path):
    """Each failure once: a NODE_FAIL with a mark is the mark; omens, others' marks and repeated ones do not count."""
    writer = Writer(tmp_path, "r")
    marks = [("7", 0.0, 1.0), ("7", 1800.0, 1.0), ("7", 2.0 * DAY, 0.25), ("99", 3.0 * DAY, 1.0)]
    for job, before, weight in marks:
        writer.mark(Mark(node="n1", at=NOW - 5 * DAY - before, cause="node_down", weight=weight, job=job))
    said = "\n".join((
        row("7", "NODE_FAIL", 4, 10, NOW - 5 * DAY), row("7", "RUNNING", 4, 5), row("8", "NODE_FAIL", 100, 1),
        row("9", "CANCELLED by 0", 2, 0), "what is this",
    ))  # fmt: skip
    client = Accounting(said)
    found = learnt(client, tmp_path, days=30, now=NOW)
    assert (found.faults, found.node_days) == (2, 160.0)
    assert found.rate == posterior(2, 160.0, WEAK, source=found.reason)
    assert "2 failures (1 in the node ledger, 1 NODE_FAIL" in found.reason
    ((argv, timeout_s),) = client.asked
    assert {"-D", "-T", "now-30days"} <= set(argv)
    assert timeout_s == 60.0


@pytest.mark.parametrize(
    ("said", "reason"), [(None, "accounting storage is disabled"), ("", "no job of yours"), ("x|y", "no job of yours")]
)
def test_without_accounting_nothing_is_guessed(tmp_path, said, reason):
    """No node-days, no rate; the reason is Slurm's own, or that nothing ran."""
    found = learnt(Accounting(said), tmp_path, now=NOW)
    assert found.rate is None
    assert reason in found.reason


def test_an_accounting_that_hangs_is_said(tmp_path):
    """No answer in time is no guess, either."""

    class Hanging(SlurmClient):
        def run(self, argv, *, timeout_s=None, stdin=""):
            raise ServiceUnavailable("sacct did not answer within 60 s")

    assert "did not answer" in learnt(Hanging(), tmp_path).reason
