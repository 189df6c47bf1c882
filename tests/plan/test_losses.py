"""Closed forms against the published tables, and against a simulation of the same assumptions."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.interval import efficiency, young
from ftslurm.plan.losses import Costs, ettr, linear, split
from ftslurm.plan.rates import BAD, GOOD, PRESETS, TYPICAL

GPUS_PER_NODE = 8
# Expected ETTR at Young's interval, exact: GPUs, rate, then (save, restart) -> ETTR.
COLUMNS = [(60, 600), (10, 300), (10, 120), (1, 60)]
TABLE = [
    (4_096, BAD, [0.912, 0.961, 0.968, 0.989]),
    (16_384, BAD, [0.793, 0.903, 0.928, 0.974]),
    (16_384, TYPICAL, [0.853, 0.933, 0.948, 0.981]),
    (100_000, GOOD, [0.663, 0.831, 0.883, 0.955]),
    (100_000, TYPICAL, [0.550, 0.763, 0.842, 0.936]),
    (100_000, BAD, [0.398, 0.655, 0.776, 0.905]),
]
# Kokolis et al. (HPCA 2025, arXiv 2410.21680): GPUs, rate, minutes between saves and for a restart, the linear form.
META = [
    (16_000, BAD, 60, 5, 0.684),
    (16_000, BAD, 5, 5, 0.932),
    (100_000, GOOD, 2, 2, 0.939),
    (100_000, BAD, 7, 5, 0.520),
    (8_000, BAD, 30, 5 + 1, 0.905),
]


def mttf_s(gpus, rate):
    """The mean time between failures of a job of so many GPUs."""
    return 86400 / (gpus / GPUS_PER_NODE * rate.per_1000_node_days / 1000)


@pytest.mark.parametrize(("gpus", "rate", "expected"), TABLE)
def test_the_published_table(gpus, rate, expected):
    """The exact column, each cell within 0.01."""
    between_s = mttf_s(gpus, rate)
    for (save_s, restart_s), value in zip(COLUMNS, expected, strict=True):
        costs = Costs(save_s=save_s, restart_s=restart_s)
        assert ettr(young(save_s, between_s), costs, between_s) == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize(("gpus", "rate", "interval_min", "restart_min", "expected"), META)
def test_metas_linear_form(gpus, rate, interval_min, restart_min, expected):
    """The points of the paper that its formula gives, without a cost of saves."""
    costs = Costs(save_s=0.0, restart_s=60 * restart_min)
    assert linear(60 * interval_min, costs, mttf_s(gpus, rate)) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(("gpus", "hours"), [(16_384, 1.8), (131_072, 0.23)])
def test_time_between_failures(gpus, hours):
    """1.8 h at 16,384 GPUs and 0.23 h at 131,072, at the worse published rate, within 3 %."""
    assert PRESETS["bad"].mttf_s(gpus // GPUS_PER_NODE) / 3600 == pytest.approx(hours, rel=0.03)


@given(
    interval=st.floats(1e-3, 5.0), save=st.floats(0, 2.0), detect=st.floats(0, 1.0), restart=st.floats(0, 2.0),
    wait=st.floats(0, 5.0),
)  # fmt: skip
def test_the_parts_sum_to_the_whole(interval, save, detect, restart, wait):
    """Every share is between 0 and 1, they sum to 1, and the productive one is the renewal formula's."""
    shares = split(interval, Costs(save_s=save, detect_s=detect, restart_s=restart, wait_s=wait), 1.0)
    assert sum(share for _, share in shares.items()) == pytest.approx(1.0)
    assert all(0 <= share <= 1 for _, share in shares.items())
    assert shares.productive == pytest.approx(efficiency(interval, save, 1.0, restart, detect + wait))


def test_little_is_lost():
    """Where little is lost, the linear form and the exact one agree."""
    costs = Costs(save_s=1.0, detect_s=5.0, restart_s=60.0)
    assert linear(300.0, costs, 1e6) == pytest.approx(ettr(300.0, costs, 1e6), abs=1e-5)


def test_the_hopeless():
    """What never gets done is all redone; the linear form does not fall below nothing."""
    costs = Costs(save_s=1e6, restart_s=0.0)
    assert split(1.0, costs, 1.0).productive == 0.0
    assert linear(1e6, costs, 1.0) == 0.0


def test_against_a_simulation():
    """The shares are those of a job that is played with the same assumptions, within a few standard errors."""
    costs, interval, between = Costs(save_s=0.1, detect_s=0.02, restart_s=0.3, wait_s=0.05), 0.4, 1.0
    spent = played(interval, costs, between, Random(7), segments=20_000)
    whole = sum(spent.values())
    for name, share in split(interval, costs, between).items():
        assert spent[name] / whole == pytest.approx(share, abs=0.005), name


def played(interval, costs, between, dice, segments):
    """Seconds by part, of a job that fails at random."""
    spent = dict.fromkeys(("productive", "redone", "saving", "detecting", "restarting", "waiting"), 0.0)
    for _ in range(segments):
        while (fails := dice.expovariate(1 / between)) < interval + costs.save_s:
            spent["redone"] += min(fails, interval)
            spent["saving"] += max(fails - interval, 0.0)
            dead(spent, costs)
            while (fails := dice.expovariate(1 / between)) < costs.restart_s:
                spent["restarting"] += fails
                dead(spent, costs)
            spent["restarting"] += costs.restart_s
        spent["productive"] += interval
        spent["saving"] += costs.save_s
    return spent


def dead(spent, costs):
    """What follows a failure."""
    spent["detecting"] += costs.detect_s
    spent["waiting"] += costs.wait_s
