from __future__ import annotations

from pathlib import Path

import pytest

from ftslurm.journal import parse_line, replay
from tests.core.story import play

FOLDER = Path(__file__).parent.parent / "scenarios"
SCENARIOS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_story_goes_as_it_is_written(path, updates_scenarios):
    """The core answers each event as the scenario expects; no law is broken on the way."""
    text = path.read_text()
    _, now = play(text)
    if updates_scenarios:
        path.write_text(now)
        return
    assert now == text, (
        f"a decision has changed; if it should: pytest tests/core --update-scenarios, and review {path.name}"
    )


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_journal_of_a_story_replays_to_its_end(path):
    """The entries, as lines of JSON and back, lead to the same state."""
    story, _ = play(path.read_text())
    entries = [parse_line(entry.line()) for entry in story.entries]
    assert entries == story.entries
    assert replay(iter(entries), story.policy) == (story.run, len(entries))


def test_scenarios_are_there():
    """The stories of the fault catalogue are not lost by a wrong folder."""
    assert len(SCENARIOS) >= 40
