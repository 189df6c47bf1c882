"""Anomaly scores: what counts as unlike the others, and what does not."""

from __future__ import annotations

import pytest

from ftslurm.report.anomaly import OUTLIER, joined, score, scores, worst
from ftslurm.report.samples import Grid

QUIET = [50.0, 51.0, 49.0, 50.5, 49.5, 50.0, 51.0, 49.0, 50.0, 50.5, 49.5, 50.0]


def grid(**rows: list[float | None]) -> Grid:
    """A grid of CPU use."""
    return Grid(0.0, 5.0, len(QUIET), {"cpu": rows})


def test_the_score_is_that_of_iglewicz_and_hoaglin():
    """0.6745 (x - median) / MAD, with the correction of Croux and Rousseeuw for five values."""
    assert score(30.0, [10.0, 12.0, 14.0, 16.0, 18.0], 0.1) == pytest.approx(0.6745 * 16 / (1.206 * 2))


def test_noise_below_the_grain_is_no_outlier():
    """A metric that never moved may move by its grain and be one deviation off, no more."""
    assert score(52.0, [50.0] * 20, 0.6745 * 2.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("peers", "past", "both"),
    [(5.0, 7.0, 5.0), (-5.0, -7.0, -5.0), (5.0, -7.0, 0.0), (5.0, None, 5.0), (None, -7.0, -7.0), (None, None, None)],
)
def test_both_comparisons_must_agree(peers, past, both):
    """The smaller counts; where they point to different sides nothing is unusual."""
    assert joined(peers, past) == both


def test_a_node_that_goes_its_own_way_is_found():
    """One node, one moment."""
    odd = [*QUIET[:10], 98.0, 50.0]
    found = worst(told := grid(n1=QUIET, n2=QUIET, n3=odd, n4=QUIET), scores(told))
    assert [(each.node, each.metric, each.value) for each in found] == [("n3", "cpu", 98.0)]
    assert found[0].score > OUTLIER
    assert found[0].t == 52.5


def test_a_node_that_always_differs_is_none():
    """The batch host does more than the others, from the beginning."""
    told = grid(n1=[value + 30 for value in QUIET], n2=QUIET, n3=QUIET)
    after_the_first = {node: row[8:] for node, row in scores(told)["cpu"].items()}
    assert all(abs(value or 0) < OUTLIER for row in after_the_first.values() for value in row)


def test_what_all_nodes_do_is_none():
    """A save is no anomaly."""
    save = [*QUIET[:10], 98.0, 50.0]
    told = grid(n1=save, n2=save, n3=save)
    assert worst(told, scores(told)) == []


def test_a_gap_has_no_score():
    """Where there is no sample there is nothing to tell."""
    told = grid(n1=[None, *QUIET[1:]], n2=QUIET)
    assert scores(told)["cpu"]["n1"][0] is None
