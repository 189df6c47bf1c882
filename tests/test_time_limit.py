from __future__ import annotations

import pytest

from ftslurm.config import parse
from ftslurm.time_limit import outlook

PLAIN = "name: x\ncommand: [train]\nresources: {{nodes: 2{time}}}\ncheckpoint: {{{saved}}}\nrecovery: {{continue: '{way}'}}\n"
FILES = "files: 'a_*.pt', grace: 5m"


@pytest.mark.parametrize(
    ("time", "saved", "way", "words"),
    [
        (
            ", time: 1-00:00:00",
            FILES,
            "auto",
            ["limit 1-00:00:00; 6m before it", "(signal:TERM)", "5m", "requeued, or"],
        ),
        ("", FILES, "requeue", ["the partition's limit", "then the job is requeued and goes on"]),
        ("", f"{FILES}, save_on: none", "none", ["without a save (checkpoint.save_on is none)", "exit code 1"]),
        ("", "layout: library", "chain:4", ["(ftslurm.training)", "the next of 4 jobs goes on"]),
        (", time: '10:00'", "", "resubmit", ["no checkpoints are watched", "a new job is submitted from the node"]),
        (", time: '5:30'", FILES, "auto", ["THE LIMIT IS SHORTER THAN THAT"]),
    ],
)
def test_what_will_happen_is_said_in_one_line(time, saved, way, words):
    """The line names the moment, the way to ask, the time for it, and what comes then."""
    line = outlook(parse(PLAIN.format(time=time, saved=saved, way=way), "x"))
    assert "\n" not in line
    assert [each for each in words if each not in line] == []
    assert ("SHORTER" in line) == ("SHORTER" in "".join(words))
