"""The examples of the library are what their READMEs say: resumable bit for bit, and on other numbers of ranks."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftslurm import config
from tests.lab.longer import long_test
from tests.local_ranks import ROOT, Ended, Ranks, clean_environment, run_ranks, wait_for

TRAIN = ROOT / "docs" / "examples" / "charlm-library" / "train.py"
HEAT = ROOT / "docs" / "examples" / "heat" / "heat.py"


def train(size: int, folder: Path, logs: Path, steps: int, *more: str) -> Ended:
    """Train up to a step."""
    argv = [TRAIN, "--steps", str(steps), "--every", "4", "--log", "1", "--checkpoints", folder, *more]
    ended = run_ranks(argv, size, logs)
    assert ended.codes == [0] * size, ended.outputs
    return ended


def losses(ended: Ended) -> dict[int, float]:
    """Step -> loss."""
    return {
        int(step): float(loss)
        for step, loss in re.findall(r"^step (\d+) loss ([\d.]+)", ended.outputs[0], re.MULTILINE)
    }


@pytest.mark.parametrize(
    "more",
    [pytest.param([], id="ddp", marks=long_test("FSDP2 is the harder one")), pytest.param(["--fsdp"], id="fsdp")],
)
def test_resumed(more: list[str], tmp_path: Path) -> None:
    """Resumed on as many ranks, it ends with the same weights, bit for bit; on fewer, with the same loss within 1e-5."""
    whole = train(2, tmp_path / "whole", tmp_path / "logs", 14, *more)
    train(2, tmp_path / "c", tmp_path / "first", 8, *more)
    shutil.copytree(tmp_path / "c", tmp_path / "fewer")
    resumed = train(2, tmp_path / "c", tmp_path / "second", 14, *more)
    assert "start at step 8 on 2 ranks" in resumed.outputs[0]
    assert resumed.outputs[0].splitlines()[-1] == whole.outputs[0].splitlines()[-1]
    fewer = train(1, tmp_path / "fewer", tmp_path / "third", 14, *more)
    wanted = losses(whole)
    assert losses(fewer) == pytest.approx({step: wanted[step] for step in range(9, 15)}, rel=1e-5)


def test_sigterm(tmp_path: Path) -> None:
    """On SIGTERM all ranks stop at the same step, which is saved, and say by their exit code that they are not done."""
    argv = [TRAIN, "--steps", "100000", "--every", "100000", "--log", "1", "--checkpoints", tmp_path / "c"]
    with Ranks(argv, 2, tmp_path / "logs") as ranks:
        wait_for("the third step", lambda: "step 3 " in ranks.logs[0].read_text())
        ranks.signal(signal.SIGTERM)
        ended = ranks.wait()
    assert ended.codes == [143, 143], ended.outputs
    stopped = re.search(r"stopped step (\d+) loss", ended.outputs[0])
    assert stopped
    assert [path.name for path in (tmp_path / "c" / "gen").iterdir()] == [f"{int(stopped[1]):09d}-0000"]


def heat(size: int, folder: Path, steps: int) -> str:
    """Let the plate warm up under mpirun."""
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}")
    assert mpirun, "mpirun is not beside the interpreter (scripts/setup)"
    options = ["--allow-run-as-root", "--oversubscribe", "-n", str(size)]
    argv = [HEAT, "--size", "37", "--steps", str(steps), "--every", "10", "--log", "20", "--checkpoints", folder]
    environ = {**clean_environment(), "OPAL_PREFIX": sys.prefix}
    words = [mpirun, *options, sys.executable, *map(str, argv)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.mpi
def test_heat(tmp_path: Path) -> None:
    """Saved on three ranks and resumed on two, the plate is the same, bit for bit."""
    whole = heat(3, tmp_path / "whole", 60)
    heat(3, tmp_path / "c", 40)
    resumed = heat(2, tmp_path / "c", 60)
    assert "start at step 40 on 2 ranks" in resumed
    assert resumed.splitlines()[-2:] == whole.splitlines()[-2:]


@pytest.mark.parametrize(("path", "limit"), [(TRAIN, 150), (HEAT, 120)])
def test_they_stay_plain(path: Path, limit: int) -> None:
    """Each example is short, and its configuration passes every check and can shrink."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit
    (configuration,) = path.parent.glob("*.yaml")
    loaded = config.load(configuration)
    assert loaded.checkpoint.layout == "library"
    assert loaded.command[1] == path.name
    assert loaded.recovery.min_nodes < loaded.resources.nodes[0]
