from __future__ import annotations

from pathlib import Path

from tests.local_ranks import PROGRAMS, run_ranks

SIZES = [4, 3, 2, 1, 6]


def test_any_number_of_ranks(tmp_path: Path) -> None:
    """Saved on four ranks, weights and optimizer are the same on any number of ranks, bit for bit: DDP and FSDP2."""
    ended = run_ranks([PROGRAMS / "resharding.py", tmp_path, "4", *map(str, SIZES)], 6, tmp_path / "logs")
    assert ended.codes == [0] * 6, ended.outputs
    lines = [line.split() for line in ended.outputs[0].splitlines() if line[:1].isdigit()]
    saved = {kind: said for _, kind, _, said in lines[:4]}
    assert saved.keys() == {"ddp", "fsdp", "hsdp", "half"}
    assert lines[4:] == [[str(size), kind, "3", said] for size in SIZES for kind, said in saved.items()]
