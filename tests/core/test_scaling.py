from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.events import Phase
from ftslurm.core.recovery import Policy
from ftslurm.core.run import advance
from ftslurm.core.scaling import Kind, Law, fit, kind_of, worth
from ftslurm.core.state import Attempt, Run
from ftslurm.core.working import WorkPaced

positive = st.floats(0.01, 100.0)
SIZES = (1, 2, 4, 8, 64)


def amdahl(serial, ranks):
    """Amdahl's speed-up, as in the paper: one rank's time divided by that of n, with a serial share."""
    return 1 / (serial + (1 - serial) / ranks)


def gustafson(serial, ranks):
    """Gustafson's scaled speed-up, as in the paper."""
    return ranks - serial * (ranks - 1)


@given(st.floats(0.0, 0.2), positive)
def test_fit_finds_amdahls_law_again(serial, one_s):
    """Times that follow the law, with a fixed work and most of it shared, give its serial share back."""
    law = fit({ranks: one_s / amdahl(serial, ranks) for ranks in (1, 2, 4)})
    assert law.kind is Kind.AMDAHL
    assert law.serial_share == pytest.approx(serial, abs=1e-9)
    assert law.step_s(1024) == pytest.approx(one_s / amdahl(serial, 1024))


@given(st.floats(0.0, 0.9), positive)
def test_fit_finds_gustafsons_law_again(serial, one_s):
    """Steps in which n ranks do n times the work at the scaled speed-up give its serial share back."""
    law = fit({ranks: one_s * ranks / gustafson(serial, ranks) for ranks in SIZES})
    assert law.kind is Kind.GUSTAFSON
    assert law.serial_share == pytest.approx(serial, abs=1e-6)
    assert law.step_s(1024) == pytest.approx(one_s * 1024 / gustafson(serial, 1024))


@given(st.dictionaries(st.integers(1, 10_000), positive, min_size=2, max_size=6))
def test_a_fitted_law_is_possible(steps_s):
    """Whatever was measured: no number of a law is negative, every step takes time, and more ranks never do less."""
    law = fit(steps_s)
    assert law.serial >= 0
    assert law.shared >= 0
    assert all(law.step_s(ranks) > 0 for ranks in SIZES)
    work = 1 if law.kind is Kind.AMDAHL else None
    speeds = [(work or ranks) / law.step_s(ranks) for ranks in SIZES]
    assert all(more >= less * (1 - 1e-9) for less, more in pairwise(speeds))


@given(
    st.dictionaries(st.integers(1, 10_000), positive, min_size=2, max_size=5), st.integers(1, 99), st.integers(1, 99)
)
def test_a_worth_is_positive_or_unknown(steps_s, smaller, more):
    """Any pair of sizes has a price, or none that is known."""
    found = worth(tuple(steps_s.items()), smaller, smaller + more)
    assert found is None or found.share > 0


def test_one_size_has_no_slope():
    """One world size, however often measured, says nothing of another."""
    assert fit({}) is fit({8: 1.0}) is worth([(8, 1.0), (8, 1.1)], 4, 8) is worth([], 4, 8) is None


@pytest.mark.parametrize("steps_s", [{0: 1.0, 2: 1.0}, {1: 0.0, 2: 1.0}, {1: -1.0}])
def test_impossible_measurements_are_refused(steps_s):
    """A step takes time, on at least one rank."""
    with pytest.raises(ValueError, match="steps take time, on at least one rank"):
        fit(steps_s)


@pytest.mark.parametrize(
    ("steps_s", "kind"),
    [
        ({4: 2.0, 8: 1.0}, Kind.AMDAHL),
        ({4: 1.3, 8: 1.0}, Kind.GUSTAFSON),
        ({4: 1.0, 8: 1.0}, Kind.GUSTAFSON),
        ({4: 1.0, 8: 1.9}, Kind.GUSTAFSON),
        ({4: 3.0, 8: 1.0}, Kind.AMDAHL),
    ],
)
def test_the_nearer_ideal_says_whose_work_it_is(steps_s, kind):
    """Steps that nearly halve when ranks double share a work; steps that stay as long do not."""
    assert kind_of(steps_s) is kind


@pytest.mark.parametrize(
    ("stepped", "smaller", "share", "reason"),
    [
        (
            [(8, 1.0), (6, 1.3), (8, 9.0), (8, 0.9)],
            6,
            8 / (6 * 1.3),
            (
                "a rank does 1.03 times as much among 6 as among 8: a step takes 1.3 s against 1 s, and the ranks share the"
                " work of a step"
            ),
        ),
        (
            [(8, 1.0), (4, 0.8)],
            4,
            1.25,
            (
                "a rank does 1.25 times as much among 4 as among 8: a step takes 0.8 s against 1 s, and each rank has its own"
                " work in a step"
            ),
        ),
        (
            [(8, 1.0), (4, 1.75)],
            2,
            (8 * 1.0) / (2 * 3.25),
            (
                "a rank does 1.23 times as much among 2 as among 8: a step takes 3.25 s against 1 s by Amdahl's law"
                " (measured: 1.75 s with 4, 1 s with 8), and the ranks share the work of a step"
            ),
        ),
        (
            [(8, 1.0), (6, 3.2)],
            4,
            8 / (6 * 3.2),
            (
                "a rank does 0.42 times as much among 6 as among 8: a step takes 3.2 s against 1 s (no law says it, so these"
                " sizes stand for 4 and 8), and the ranks share the work of a step"
            ),
        ),
    ],
)
def test_worth_of_a_smaller_world(stepped, smaller, share, reason):
    """Measured sizes are compared as they are, others by the law, or by their neighbours where it does not fit."""
    found = worth(stepped, smaller, 8)
    assert (found.share, found.reason) == (pytest.approx(share), reason)


def test_a_law_reaches_as_far_as_the_sizes_are_apart():
    """From 6 and 8 ranks down to 4.5 and up to 10.7; beyond it the nearest sizes stand for others."""
    stepped = [(8, 1.0), (6, 1.3)]
    assert "by Amdahl's law" in worth(stepped, 5, 8).reason
    assert "so these sizes stand for 4 and 8" in worth(stepped, 4, 8).reason
    assert "by Amdahl's law" in worth(stepped, 6, 10).reason
    assert "so these sizes stand for 6 and 11" in worth(stepped, 6, 11).reason


def test_no_size_below_that_of_the_full_world():
    """Where no law fits and only larger worlds are known, nothing is said of a smaller one."""
    assert worth([(8, 1.0), (16, 0.1)], 4, 8) is None


def test_serial_share():
    """The share of one rank's time that more ranks do not make shorter."""
    assert Law(kind=Kind.AMDAHL, serial=1.0, shared=3.0).serial_share == 0.25


def test_newest_paces_of_each_size_are_kept():
    """A run keeps nine paces of every world size, and none of an attempt that is over or of steps without time."""
    attempt = Attempt(number=3, nodes=("n1",), world_size=2, released=True)
    run = Run(phase=Phase.TRAINING, attempt=attempt, stepped=((4, 9.0),))
    for step_s in (*range(1, 13), 0):
        event = WorkPaced(attempt=3, steps=10, step_s=float(step_s))
        run, actions = advance(run, event, Policy())
        assert actions == ()
    late, _ = advance(run, WorkPaced(attempt=2, steps=10, step_s=0.1), Policy())
    assert late.stepped == run.stepped == ((4, 9.0), *((2, float(step_s)) for step_s in range(4, 13)))
