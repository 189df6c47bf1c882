from __future__ import annotations

import pytest

from ftslurm.insight.summary import summarise
from tests.core.story import play
from tests.core.test_scenarios import SCENARIOS

HEALTH = [path for path in SCENARIOS if any(word in path.read_text() for word in ("\nhealth ", "\nxid "))]


@pytest.mark.parametrize("path", HEALTH, ids=lambda path: path.stem)
def test_what_is_told_is_what_the_core_knows(path):
    """Every story with sick nodes: the same nodes, metrics and levels, and the same nodes given up."""
    story, _ = play(path.read_text())
    told = summarise(story.entries)
    known = {node: {(each.metric, each.device, each.level) for each in held} for node, held in story.run.health.items()}
    assert {node: {(ill.metric, ill.device, ill.level) for ill in ills} for node, ills in told.ills.items()} == known
    assert set(told.excluded) == set(story.run.condemned)


def test_stories_with_sick_nodes_are_there():
    """The cases above are not lost by a renamed word."""
    assert len(HEALTH) >= 10
