"""The programs that lab tests launch do what their docstrings say: a fault that is not what it claims proves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local_ranks import PROGRAMS, Ranks, clean_environment, run_ranks, wait_for


def lines(folder: Path, word: str) -> list[list[str]]:
    """The lines of all progress files that start with `word`."""
    found = [line.split() for path in sorted(folder.glob("rank-*.log")) for line in path.read_text().splitlines()]
    return [line for line in found if line[0] == word]


def test_neutral_loop_resumes_bit_identically(tmp_path: Path) -> None:
    """Resumed from its checkpoint the neutral loop ends with the weights of the whole run, on every rank."""
    argv = [PROGRAMS / "ddp_counter.py", "--steps", 30, "--every", 10, "--pace", 0, "--checkpoints", tmp_path / "c"]
    run_ranks([*argv, "--progress", tmp_path / "a"], 3, tmp_path / "logs")
    run_ranks([*argv, "--progress", tmp_path / "b", "--resume", tmp_path / "c/step_00000010.pt"], 3, tmp_path / "logs")
    whole, again = lines(tmp_path / "a", "DONE"), lines(tmp_path / "b", "DONE")
    assert len(whole) == len(again) == 3
    assert len({word for _, word in whole + again}) == 1
    assert {step for _, step in lines(tmp_path / "b", "RESUME")} == {"10"}


def test_neutral_loop_passes_over_a_broken_file(tmp_path: Path) -> None:
    """Left to itself the neutral loop takes the newest file that loads."""
    argv = [PROGRAMS / "ddp_counter.py", "--steps", 4, "--every", 2, "--pace", 0, "--checkpoints", tmp_path / "c"]
    run_ranks(argv, 1, tmp_path / "logs")
    broken = tmp_path / "c/step_00000004.pt"
    broken.write_bytes(broken.read_bytes()[:100])
    run_ranks([*argv, "--progress", tmp_path / "p"], 1, tmp_path / "logs")
    assert lines(tmp_path / "p", "RESUME") == [["RESUME", "2"]]


@pytest.mark.parametrize(
    ("how", "code"),
    [("exit:7", 7), ("signal:SIGSEGV", -signal.SIGSEGV), ("exception", 1)],
    ids=str,
)
def test_crash_once(how: str, code: int, tmp_path: Path) -> None:
    """The planned failure comes once where a marker is given, in the asked way, and the next attempt gets through."""
    argv = [PROGRAMS / "crash.py", "--how", how, "--at", 1, "--rank", 1, "--steps", 3, "--pace", 0]
    argv += ["--marker", tmp_path / "marker"]
    assert run_ranks(argv, 2, tmp_path / "logs").codes == [0, code]
    assert run_ranks(argv, 2, tmp_path / "logs").codes == [0, 0]


def test_crash_resumes(tmp_path: Path) -> None:
    """The crashing program counts on from its checkpoint."""
    argv = [PROGRAMS / "crash.py", "--how", "exit:1", "--at", 5, "--steps", 9, "--every", 2, "--pace", 0]
    argv += ["--checkpoints", tmp_path / "c"]
    assert run_ranks(argv, 1, tmp_path / "logs").codes == [1]
    ended = run_ranks([*argv, "--at", 0, "--resume", tmp_path / "c/step_00000004.pt"], 1, tmp_path / "logs")
    assert ended.codes == [0]
    assert "starts at step 4" in ended.outputs[0]


@pytest.mark.parametrize(("option", "state"), [("--die-at", "dead"), ("--stop-at", "T")])
def test_half_a_checkpoint(option: str, state: str, tmp_path: Path) -> None:
    """A writer that dies or stops in the middle leaves half a file under the final name, after a whole one."""
    argv = [PROGRAMS / "slow_writer.py", "--mb", 1, "--pause", 0.01, "--rest", 0, option, 2]
    with Ranks([*argv, "--checkpoints", tmp_path / "c"], 1, tmp_path / "logs") as ranks:
        wait_for("the writer's end", lambda: process_state(ranks.children[0]) == state)
        whole, half = sorted((tmp_path / "c").iterdir())
        assert 0 < half.stat().st_size < whole.stat().st_size


def process_state(child: subprocess.Popen[bytes]) -> str:
    """A letter as in ps(1), or `dead`."""
    if child.poll() is not None:
        return "dead"
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_slow_writer_refuses_wrong_bytes(tmp_path: Path) -> None:
    """The slow writer checks what it is resumed from, so that a test can rely on its success."""
    argv = [PROGRAMS / "slow_writer.py", "--mb", 1, "--pause", 0, "--rest", 0, "--checkpoints", tmp_path / "c"]
    assert run_ranks([*argv, "--steps", 1], 1, tmp_path / "logs").codes == [0]
    path = tmp_path / "c/step_00000001.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ended = run_ranks([*argv, "--steps", 2, "--resume", path], 1, tmp_path / "logs")
    assert ended.codes == [1]
    assert "not the bytes that were saved" in ended.outputs[0]


def test_env_dump(tmp_path: Path) -> None:
    """The dump holds the environment of that attempt and rank; the first attempt fails on request."""
    argv = [PROGRAMS / "env_dump.py", tmp_path / "d", "--fail-once", tmp_path / "marker", "one", "two words"]
    assert run_ranks(argv, 1, tmp_path / "logs", FTSLURM_ATTEMPT="0").codes == [1]
    assert run_ranks(argv, 1, tmp_path / "logs", FTSLURM_ATTEMPT="1").codes == [0]
    found = json.loads((tmp_path / "d/attempt-1-rank-0.json").read_text())
    assert found["environ"]["FTSLURM_ATTEMPT"] == "1"
    assert found["argv"] == ["one", "two words"]


def test_worker_tree_outlives_its_root(tmp_path: Path) -> None:
    """When the rank is killed its three children live on, two of them after SIGTERM too: fencing has work to do."""
    argv = [PROGRAMS / "worker_tree.py", tmp_path / "t", "--steps", 1000]
    with Ranks(argv, 1, tmp_path / "logs", FTSLURM_ATTEMPT="3") as ranks:
        wait_for("the tree", lambda: len(list((tmp_path / "t").glob("attempt-3-rank-0-*"))) == 4)
        ranks.children[0].kill()
        ranks.children[0].wait(10)
    found = [path.read_text().split() for path in (tmp_path / "t").glob("attempt-3-rank-0-*")]
    workers = {kind: int(pid) for kind, pid, _ in found if kind != "rank"}
    try:
        assert workers.keys() == {"plain", "stubborn", "orphan"}
        for pid in workers.values():
            os.kill(pid, signal.SIGTERM)
        wait_for("the plain one's end", lambda: not alive(workers["plain"]))
        assert alive(workers["stubborn"])
        assert alive(workers["orphan"])
    finally:
        for pid in filter(alive, workers.values()):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """True unless the process is gone or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.mpi
def test_mpi_program_resumes_on_other_ranks(tmp_path: Path) -> None:
    """The MPI program ends with the same value after a resume on fewer ranks, and refuses a world of the wrong size."""
    whole = mpirun(3, "--checkpoints", tmp_path / "a")
    again = mpirun(2, "--checkpoints", tmp_path / "b", "--resume", tmp_path / "a/step_00000010.npz")
    assert value_of(whole.stdout) == value_of(again.stdout)
    assert mpirun(2, "--ranks", 3, "--checkpoints", tmp_path / "c").returncode != 0


def mpirun(size: int, *options: object) -> subprocess.CompletedProcess[str]:
    """Run the MPI program for 20 steps."""
    program = shutil.which("mpirun", path=str(Path(sys.executable).parent))
    assert program, "mpirun is not beside the interpreter (scripts/setup)"
    argv = [program, "--allow-run-as-root", "--oversubscribe", "-n", str(size), sys.executable]
    words = [*argv, str(PROGRAMS / "mpi_ring.py"), "--steps", "20", "--pace", "0", *map(str, options)]
    environ = {**clean_environment(), "OPAL_PREFIX": sys.prefix}
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=False)


def value_of(output: str) -> str:
    """The value in the final line."""
    return next(line.split()[4] for line in output.splitlines() if line.startswith("final step 20"))
