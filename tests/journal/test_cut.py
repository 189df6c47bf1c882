from __future__ import annotations

from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftslurm.core.run import advance
from ftslurm.core.state import Run
from ftslurm.journal import read, replay
from ftslurm.paths import RunPaths
from tests.core.story import Story, play
from tests.core.test_scenarios import FOLDER

STORIES = ("node_cut", "lost_in_relaunch", "time_limit_saved", "two_nodes_lost")


@cache
def told(name: str) -> tuple[Story, bytes, list[Run]]:
    """A story, its journal, and the state after each entry."""
    story, _ = play((FOLDER / f"{name}.txt").read_text())
    runs = [Run()]
    for entry in story.entries:
        runs.append(advance(runs[-1], entry.event, story.policy)[0])
    return story, b"".join((entry.line() + "\n").encode() for entry in story.entries), runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run."""
    return tmp_path_factory.mktemp("run")


@settings(max_examples=150)
@given(name=st.sampled_from(STORIES), share=st.floats(0, 1))
@example(name=STORIES[0], share=0.0)
@example(name=STORIES[0], share=1.0)
def test_a_journal_cut_at_any_byte_replays_to_the_same_decision(folder, name, share):
    """What was written whole is decided again as it was; what is torn was never acted upon, and does not count."""
    story, data, runs = told(name)
    cut = round(share * len(data))
    paths = RunPaths(folder)
    paths.journal(1).write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    entries = list(read(paths))
    assert entries == story.entries[:whole]
    assert replay(entries, story.policy) == (runs[whole], whole)
    if whole < len(story.entries):
        following = story.entries[whole]
        run, actions = advance(runs[whole], following.event, story.policy)
        assert (run, actions) == (runs[whole + 1], following.actions), "the next event leads to the same decision"


@pytest.mark.parametrize("name", STORIES)
def test_a_journal_cut_around_every_line_end(folder, name):
    """The bytes at which it matters: the last of a line, its end, and the first of the next."""
    story, data, runs = told(name)
    paths = RunPaths(folder)
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for count, end in enumerate(ends, start=1):
        for cut, whole in ((end - 2, count - 1), (end - 1, count - 1), (end, count), (end + 1, count)):
            if cut <= len(data):
                paths.journal(1).write_bytes(data[:cut])
                assert replay(read(paths), story.policy) == (runs[whole], whole)
