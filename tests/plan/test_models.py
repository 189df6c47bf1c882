"""ETTR under other ways of failing, by simulation of the forecast's own run."""

from __future__ import annotations

import pytest

from ftslurm.plan.forecast import interval_of
from ftslurm.plan.inputs import gather
from ftslurm.plan.losses import ettr
from ftslurm.plan.models import KINDS, under_models
from ftslurm.plan.rates import BAD, Rate
from tests.plan.test_forecast import config


@pytest.mark.parametrize(
    ("recovery", "plan"),
    [
        ("{spares: 1}", "{restart: 10m, save: 20s}"),
        ("{min_nodes: 128}", "{restart: 2m, save: 5s, queue_wait: 1h}"),
    ],
)
def test_without_clusters_it_is_the_formulas(recovery, plan):
    """Equal, independent nodes give the closed form's ETTR, with spares and with requeues; each kind has its row."""
    resources = "{nodes: 128, ranks_per_node: 8}"
    inputs = gather(config(resources=resources, recovery=recovery, plan=plan, checkpoint="{layout: library}"), BAD)
    interval_s = interval_of(inputs).seconds
    part = under_models(inputs, interval_s)
    found = {row.key.removesuffix("_share"): row.value for row in part.rows}
    assert tuple(found) == tuple(KINDS)
    assert found["exponential"] == pytest.approx(ettr(interval_s, inputs.costs, inputs.mttf_s), abs=0.01)
    assert under_models(inputs, interval_s) == part


def test_the_smallest_run():
    """One node, which fails once in a year, can be simulated, too."""
    inputs = gather(config(resources="{nodes: 1}", checkpoint="{layout: library}"), BAD)
    part = under_models(inputs, interval_of(inputs).seconds)
    assert all(row.value > 0.99 for row in part.rows)


def test_what_fails_all_the_time_is_not_simulated():
    """A job that fails every few milliseconds is told about in one row, at once."""
    rate = Rate(per_1000_node_days=100_000.0, source="x")
    part = under_models(gather(config(checkpoint="{layout: library}"), rate, None, 100_000), 1.0)
    assert [row.value for row in part.rows] == ["not"]
