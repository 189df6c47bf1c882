"""The example trains for real, and is what its README says: deterministic, resumable, and the same on fewer ranks."""

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
from tests.local_ranks import TRAIN, Ended, Ranks, clean_environment, free_port, run_ranks, wait_for

STEPS, EVERY = 70, 20


def losses(output: str) -> dict[int, float]:
    """Step -> loss of every line `step N loss X` and of the final one."""
    return {int(step): float(loss) for step, loss in re.findall(r"step (\d+) loss ([\d.]+)", output)}


def last_line(ended: Ended) -> str:
    """What rank 0 said last."""
    assert ended.codes == [0] * len(ended.codes), ended.outputs
    return ended.outputs[0].splitlines()[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """An undisturbed run on two ranks, and its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    argv = [TRAIN, "--steps", STEPS, "--every", EVERY, "--checkpoints", folder / "c"]
    return run_ranks(argv, 2, folder / "logs"), folder / "c"


def resumed(size: int, checkpoint: Path, folder: Path) -> Ended:
    """The rest of the run from a checkpoint."""
    argv = [TRAIN, "--steps", STEPS, "--every", EVERY, "--checkpoints", folder / "c", "--resume", checkpoint]
    return run_ranks(argv, size, folder / "logs")


def test_it_learns(whole: tuple[Ended, Path]) -> None:
    """Training on the standard library lowers the loss."""
    found = losses(whole[0].outputs[0])
    assert found[STEPS] < found[10] - 0.3


@long_test("the neutral loop resumes bit for bit in test_programs.py")
def test_resume_is_bit_identical(whole: tuple[Ended, Path], tmp_path: Path) -> None:
    """Resumed on as many ranks, a run ends with the same loss and the same weights, bit for bit."""
    ended = resumed(2, whole[1] / "step_00000020.pt", tmp_path)
    assert last_line(ended) == last_line(whole[0])
    assert re.search(r"final step 70 loss \d+\.\d{9} digest [0-9a-f]{16}$", last_line(ended))


def test_other_number_of_ranks_has_the_same_loss(whole: tuple[Ended, Path], tmp_path: Path) -> None:
    """Resumed on another number of ranks, the loss after 50 more steps agrees within 1e-5 relative."""
    ended = resumed(3, whole[1] / "step_00000020.pt", tmp_path)
    assert ended.codes == [0, 0, 0], ended.outputs
    wanted, found = losses(whole[0].outputs[0]), losses(ended.outputs[0])
    assert found.keys() == {30, 40, 50, 60, 70}
    assert found == pytest.approx({step: wanted[step] for step in found}, rel=1e-5)


def test_resume_from_a_folder_takes_the_newest(whole: tuple[Ended, Path], tmp_path: Path) -> None:
    """A checkpoint that is handed over as a folder is its newest file; at the last step nothing is left to train."""
    ended = resumed(1, whole[1], tmp_path)
    assert f"start at step {STEPS} on 1 ranks" in ended.outputs[0]
    assert last_line(ended) == last_line(whole[0])


def test_sigterm_saves_and_leaves(tmp_path: Path) -> None:
    """On SIGTERM all ranks stop at the same step, which is saved, and say by their exit code that they are not done."""
    argv = [TRAIN, "--steps", 100_000, "--every", 100_000, "--log", 1, "--checkpoints", tmp_path / "c"]
    with Ranks(argv, 2, tmp_path / "logs") as ranks:
        wait_for("the third step", lambda: "step 3 " in ranks.logs[0].read_text())
        ranks.signal(signal.SIGTERM)
        ended = ranks.wait()
    assert ended.codes == [128 + signal.SIGTERM] * 2
    stopped = re.search(r"stopped step (\d+) loss", ended.outputs[0])
    assert stopped
    assert [path.name for path in (tmp_path / "c").iterdir()] == [f"step_{int(stopped[1]):08d}.pt"]


def test_under_torchrun(tmp_path: Path) -> None:
    """Torchrun's variables are enough."""
    argv = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", TRAIN]
    text = launched([sys.executable, *argv, "--steps", 2, "--checkpoints", tmp_path])
    assert "on 2 ranks" in text
    assert "final step 2" in text


@pytest.mark.mpi
def test_under_mpirun(tmp_path: Path) -> None:
    """Open MPI's variables are enough on one host."""
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}")
    assert mpirun, "mpirun is not beside the interpreter (scripts/setup)"
    options = ["--allow-run-as-root", "--oversubscribe", "-n", "2", "-x", f"MASTER_PORT={free_port()}"]
    text = launched([mpirun, *options, sys.executable, TRAIN, "--steps", 2, "--checkpoints", tmp_path])
    assert "on 2 ranks" in text
    assert "final step 2" in text


def launched(argv: list[object]) -> str:
    """Output of a launcher that ended well."""
    environ = {**clean_environment(), "OPAL_PREFIX": sys.prefix}
    words = [str(word) for word in argv]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_configuration_is_right() -> None:
    """The example's configuration passes every check, finds its own files and can shrink."""
    loaded = config.load(TRAIN.with_name("charlm.yaml"))
    assert loaded.command[:2] == ("python", "train.py")
    assert loaded.checkpoint.files == ("step_*.pt",)
    assert loaded.checkpoint.resume_args == ("--resume", "{checkpoint}")
    assert loaded.recovery.min_nodes < loaded.resources.nodes[0]


def test_it_stays_plain() -> None:
    """The example fits on 150 lines."""
    assert len(TRAIN.read_text(encoding="utf-8").splitlines()) <= 150
