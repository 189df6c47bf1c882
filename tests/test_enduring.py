"""What a program has after death: the same as without, from any moment of a save."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.lab.longer import long_test
from tests.local_ranks import PROGRAMS, Ended, Ranks, run_ranks, wait_for

PROGRAM = PROGRAMS / "enduring.py"


def last_lines(ended: Ended) -> list[str]:
    """What each rank said last."""
    assert ended.codes == [0] * len(ended.codes), ended.outputs
    return [output.splitlines()[-1] for output in ended.outputs]


def die(folder: Path, logs: Path, size: int, count: int) -> None:
    """Let the last rank be killed at its `count`-th fsync; then end the others."""
    with Ranks([PROGRAM, folder, "--die-at", str(count)], size, logs) as ranks:
        assert ranks.children[-1].wait(100) == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, list[str]]]:
    """What undisturbed runs of so many ranks leave and say in the end."""

    @cache
    def whole(size: int) -> tuple[Path, list[str]]:
        folder = tmp_path_factory.mktemp("whole")
        return folder / "c", last_lines(run_ranks([PROGRAM, folder / "c"], size, folder / "logs"))

    return whole


@pytest.mark.parametrize(("size", "count"), [(1, 2), (1, 30), (1, 51), (2, 31)])
def test_killed_in_a_save(undisturbed, size: int, count: int, tmp_path: Path) -> None:
    """Killed in the middle of a save and started again, a run ends as the undisturbed one, bit for bit.

    So do weights, optimizer, random numbers and the order of the samples.
    """
    die(tmp_path / "c", tmp_path / "logs", size, count)
    ended = run_ranks([PROGRAM, tmp_path / "c"], size, tmp_path / "again")
    assert last_lines(ended) == undisturbed(size)[1]
    assert ("restored" in ended.outputs[0]) == (count > 20)


def damage(path: Path, how: str) -> None:
    """Harm a file."""
    data = bytearray(path.read_bytes())
    if how == "bit":
        data[len(data) // 2] ^= 4
    elif how == "cut":
        del data[-100:]
    path.unlink()
    if how != "gone":
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("size", "name", "how"),
    [(1, "d/00000.bin", "bit"), (1, "d/00000.json", "cut"), (1, "d/00000.bin", "gone"), (2, "COMMIT.json", "bit")],
)
def test_damage(undisturbed, size: int, name: str, how: str, tmp_path: Path) -> None:
    """A damaged newest checkpoint is refused and set aside; the one before it gives the same end."""
    folder, wanted = undisturbed(size)
    shutil.copytree(folder, tmp_path / "c")
    newest = max((tmp_path / "c" / "gen").iterdir())
    damage(newest / name, how)
    ended = run_ranks([PROGRAM, tmp_path / "c"], size, tmp_path / "logs")
    assert last_lines(ended) == wanted
    assert "restored step 16 from" in ended.outputs[0]
    assert (tmp_path / "c" / "quarantine" / newest.name).is_dir()


@long_test("one rank does it in test_training_api.py")
def test_nothing_left(undisturbed, tmp_path: Path) -> None:
    """Where no checkpoint can be loaded, the program ends with code 65, now and the next time: never from the start."""
    shutil.copytree(undisturbed(2)[0], tmp_path / "c")
    for each in (tmp_path / "c" / "gen").iterdir():
        damage(each / "d" / "00001.bin", "bit")
    for attempt in range(2):
        ended = run_ranks([PROGRAM, tmp_path / "c"], 2, tmp_path / f"logs-{attempt}")
        assert ended.codes == [65, 65], ended.outputs
        assert "ftslurm: no checkpoint in" in ended.outputs[0]
        assert "Traceback" not in ended.outputs[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal(number: signal.Signals, tmp_path: Path) -> None:
    """Asked to end by a signal, all ranks save at the same step and end, and the next run goes on from there."""
    argv = [PROGRAM, tmp_path / "c", "--steps", "1000000", "--every", "1000000"]
    with Ranks(argv, 2, tmp_path / "logs") as ranks:
        wait_for("the fiftieth step", lambda: "at step 50\n" in ranks.logs[0].read_text())
        ranks.signal(number)
        ended = ranks.wait()
    steps = {int(line.split()[2]) for line in last_lines(ended)}
    assert len(steps) == 1
    (generation,) = (tmp_path / "c" / "gen").iterdir()
    assert generation.name == f"{steps.pop():09d}-0000"
    assert (generation / "COMMIT.json").exists()
    assert f"{number.name} was received" in (generation / "COMMIT.json").read_text()
