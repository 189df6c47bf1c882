"""What a program has after death: the same as without, from any moment of a save."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module", params=[1, 2])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, list[str]]:
    """An undisturbed run on one or two ranks, and its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, folder / "c", last_lines(run_ranks([PROGRAM, folder / "c"], request.param, folder / "logs"))


@pytest.mark.parametrize("count", [2, 30, 50])
def test_killed_in_a_save(whole: tuple[int, Path, list[str]], count: int, tmp_path: Path) -> None:
    """Killed in the middle of a save and started again, a run ends as the undisturbed one, bit for bit.

    So do weights, optimizer, random numbers and the order of the samples.
    """
    size, _, wanted = whole
    die(tmp_path / "c", tmp_path / "logs", size, count)
    assert last_lines(run_ranks([PROGRAM, tmp_path / "c"], size, tmp_path / "again")) == wanted


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
    ("name", "how"), [("d/00000.bin", "bit"), ("d/00000.json", "cut"), ("d/00000.bin", "gone"), ("COMMIT.json", "bit")]
)
def test_damage(whole: tuple[int, Path, list[str]], name: str, how: str, tmp_path: Path) -> None:
    """A damaged newest checkpoint is refused and set aside; the one before it gives the same end."""
    size, folder, wanted = whole
    if size == 2 and how != "bit":
        pytest.skip("one is enough on two ranks")
    shutil.copytree(folder, tmp_path / "c")
    newest = max((tmp_path / "c" / "gen").iterdir())
    damage(newest / name, how)
    ended = run_ranks([PROGRAM, tmp_path / "c"], size, tmp_path / "logs")
    assert last_lines(ended) == wanted
    assert "restored step 16 from" in ended.outputs[0]
    assert (tmp_path / "c" / "quarantine" / newest.name).is_dir()


def test_nothing_left(whole: tuple[int, Path, list[str]], tmp_path: Path) -> None:
    """Where no checkpoint can be loaded, the program ends with code 65, now and the next time: never from the start."""
    size, folder, _ = whole
    shutil.copytree(folder, tmp_path / "c")
    for each in (tmp_path / "c" / "gen").iterdir():
        damage(each / "d" / "00000.bin", "bit")
    for attempt in range(2):
        ended = run_ranks([PROGRAM, tmp_path / "c"], size, tmp_path / f"logs-{attempt}")
        assert ended.codes == [65] * size, ended.outputs
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
