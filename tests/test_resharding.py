from __future__ import annotations

from pathlib import Path

import pytest

from tests.local_ranks import PROGRAMS, run_ranks

PROGRAM = PROGRAMS / "resharding.py"
KINDS = ["ddp", "fsdp", "hsdp", "half"]


def digests(mode: str, size: int, folder: Path, logs: Path) -> dict[str, tuple[str, str]]:
    """By kind: what restore() said, and the digest of model and optimizer."""
    ended = run_ranks([PROGRAM, mode, folder], size, logs)
    assert ended.codes == [0] * size, ended.outputs
    lines = [line.partition(": ") for line in ended.outputs[0].splitlines() if line.partition(":")[0] in KINDS]
    return {kind: tuple(rest.split(" ", 1)) for kind, _, rest in lines}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Four ranks have trained and saved."""
    folder = tmp_path_factory.mktemp("saved")
    found = digests("save", 4, folder / "c", folder / "logs")
    assert {kind: restored for kind, (restored, _) in found.items()} == dict.fromkeys(KINDS, "None")
    return folder / "c", {kind: said for kind, (_, said) in found.items()}


@pytest.mark.parametrize("size", [4, 3, 2, 1, 6])
def test_any_number_of_ranks(saved: tuple[Path, dict[str, str]], size: int, tmp_path: Path) -> None:
    """Saved on four ranks, weights and optimizer are the same on any number of ranks, bit for bit."""
    folder, wanted = saved
    assert digests("load", size, folder, tmp_path) == {kind: ("3", said) for kind, said in wanted.items()}
