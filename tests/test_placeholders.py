"""What a command's names in braces stand for in an attempt, and which braces are none of ours."""

from __future__ import annotations

import pytest

from ftslurm.placeholders import NAMES, filled, used

VALUES = {
    "nnodes": "3", "world": "24", "master_addr": "10.0.0.1", "master_port": "23456", "node_rank": "2", "rank": "16",
}  # fmt: skip


def test_every_name_is_filled_in() -> None:
    """All six, anywhere in a word, as often as they stand there."""
    text = "run --n {nnodes} --w {world} --at {master_addr}:{master_port} --me {node_rank}/{nnodes} > log.{rank}"
    assert filled(["bash", "-c", text], VALUES) == [
        "bash",
        "-c",
        "run --n 3 --w 24 --at 10.0.0.1:23456 --me 2/3 > log.16",
    ]
    assert used([text]) == set(NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "${rank}", "x{{rank}}y", "{rank:03d}", "{Rank}", "{ rank }", "{0}", "{}", "{nodes}", "a{b,c}d", "{rank",
        "{{nnodes}}", '{"rank": {"world": 1}}', "awk '{print $1}'", "{checkpoint}",
    ],
)  # fmt: skip
def test_other_braces_stay(text: str) -> None:
    """The shell's variables, templates, JSON, awk: exactly the six names in single braces are ours."""
    assert filled([text], VALUES) == [text]
    assert not used([text])
