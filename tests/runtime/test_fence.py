"""Fencing against real processes: everything of an old attempt dies, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ftslurm.runtime import fence
from tests.runtime.conftest import Starter
from tests.runtime.stage import PATIENCE_S, RUN_ID, Agent, child_of, is_gone, rank_env, start_rank, state_of, wait_until

WORKER_TREE = Path(__file__).parents[1] / "programs" / "worker_tree.py"
SLEEP = ("sleep", "600")
# Each generation lives for a moment, in a session of its own, and is gone when its pid is read from a list.
CHAIN = """
import os, sys, time
end = time.monotonic() + 60
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(float(sys.argv[1]))
"""
BOMB = """
import os, time
end, alive = time.monotonic() + 60, 1
for _ in range(7):
    os.fork()
while time.monotonic() < end:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    else:
        time.sleep(0.01)
        os._exit(0)
"""

Spawner = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawner]:
    """Starts processes that carry the mark of an attempt; what is left of them is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*argv: str, attempt: int | None = 1, **more: str) -> subprocess.Popen[bytes]:
        marks = {"FTSLURM_RUN_ID": RUN_ID, "FTSLURM_ATTEMPT": str(attempt)} if attempt is not None else {}
        started.append(subprocess.Popen(argv, env={**os.environ, **marks, **more}, stdin=subprocess.DEVNULL))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait(PATIENCE_S)
    fence.fence(RUN_ID, 99)


def test_a_tree_dies_with_all_its_children(spawn: Spawner, tmp_path: Path) -> None:
    """Plain, SIGTERM-ignoring and re-parented children of a killed rank are found by the mark they inherited."""
    parent = spawn(sys.executable, str(WORKER_TREE), str(tmp_path))
    wait_until(lambda: len(list(tmp_path.glob("attempt-*"))) == 4, "four processes announced themselves")
    parent.kill()
    parent.wait(PATIENCE_S)
    pids = [int(path.read_text().split()[1]) for path in tmp_path.glob("attempt-*")]
    assert sum(not is_gone(pid) for pid in pids) == 3
    report = fence.fence(RUN_ID, 1)
    assert (report.killed, report.left) == (3, ())
    assert all(is_gone(pid) for pid in pids)
    assert fence.find(RUN_ID, 1) == ()


def test_only_old_attempts_of_this_run_die(spawn: Spawner) -> None:
    """A newer attempt, another run, and the run's own processes live on."""
    older, same = spawn(*SLEEP, attempt=0), spawn(*SLEEP, attempt=1)
    others = [
        spawn(*SLEEP, attempt=2),
        spawn(*SLEEP, FTSLURM_RUN_ID="another"),
        spawn(*SLEEP, FTSLURM_ROLE="agent"),
        spawn(*SLEEP, attempt=None, FTSLURM_RUN_ID=RUN_ID),
        spawn(*SLEEP, FTSLURM_ATTEMPT="-1"),
    ]
    wait_until(lambda: len(fence.find(RUN_ID, 1)) == 2, "both have become sleep")
    assert fence.fence(RUN_ID, 1).left == ()
    assert [process.wait(PATIENCE_S) for process in (older, same)] == [-9, -9]
    assert [process.poll() for process in others] == [None] * 5


def test_this_process_and_its_parents_are_never_hit() -> None:
    """An agent that was itself started with the marks fences the others and survives."""
    code = (
        "import os, subprocess\nfrom ftslurm.runtime import fence\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"print(fence.fence('{RUN_ID}-self', 1).left, child.wait(30))"
    )
    env = {**os.environ, "FTSLURM_RUN_ID": f"{RUN_ID}-self", "FTSLURM_ATTEMPT": "1"}
    argv = ["sh", "-c", '"$@"; echo alive', "sh", sys.executable, "-c", code]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.stdout == "() -9\nalive\n", done.stderr


def test_a_launchers_client_is_given_time(spawn: Spawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An srun is no rank: it may end by itself, and is killed some seconds later; one that a rank has started is one."""
    srun = tmp_path / "srun"
    srun.symlink_to("/bin/sleep")
    # The fence of the test before this one may still be about to end clients of attempts up to 99.
    client, newer = spawn(str(srun), "600"), spawn(str(srun), "600", attempt=100)
    inner, rank = spawn(str(srun), "600", FTSLURM_RANK="0"), spawn(*SLEEP)
    wait_until(lambda: len(fence.find(RUN_ID, 1)) == 2, "rank and inner srun are there")
    monkeypatch.setattr(fence, "CLIENTS_S", 0.2)
    assert fence.fence(RUN_ID, 1).killed == 2
    assert [process.wait(PATIENCE_S) for process in (inner, rank, client)] == [-9, -9, -9]
    assert newer.poll() is None


def test_who_hides_its_environment_dies_with_its_kin(spawn: Spawner) -> None:
    """Programs that set a process title overwrite their environment; their parent's mark counts for them."""
    parent = spawn("sh", "-c", "env -i sleep 600 & wait")
    child = wait_until(lambda: child_of(parent.pid), "the child runs")
    wait_until(lambda: not fence.environ_of(child), "the child's environment is empty")
    assert fence.fence(RUN_ID, 1).left == ()
    assert is_gone(child)


@pytest.mark.parametrize("life_s", ["0", "0.002", "0.02"])
def test_a_chain_of_short_lives_is_caught(spawn: Spawner, life_s: str) -> None:
    """A process that forks and ends all the time is in no list of processes, but it is found."""
    spawn(sys.executable, "-c", CHAIN, life_s).wait(PATIENCE_S)
    assert fence.find(RUN_ID, 1) != ()
    assert fence.fence(RUN_ID, 1).left == ()
    assert fence.find(RUN_ID, 1) == ()


def test_a_crowd_that_forks_while_it_is_killed_dies(spawn: Spawner) -> None:
    """128 processes that start others without end: nothing is left."""
    spawn(sys.executable, "-c", BOMB)
    wait_until(lambda: len(fence.find(RUN_ID, 1)) > 100, "the crowd is there")
    report = fence.fence(RUN_ID, 1)
    assert report.left == ()
    assert report.killed > 100
    assert fence.find(RUN_ID, 1) == ()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fencing_that_fails_has_not_left_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread dies on the way: nobody may go on as if the ranks were gone."""

    def broken(*_: object, **__: object) -> dict[int, fence.Proc]:
        raise FileNotFoundError("a cgroup went away")

    monkeypatch.setattr(fence, "_table", broken)
    monkeypatch.setattr(fence, "CLIENTS_S", 3600.0)
    assert fence.fence(RUN_ID, 1, 1.0).left == ("the fencing itself has failed",)


def test_stopped_processes_die_too(spawn: Spawner) -> None:
    """SIGKILL needs no SIGCONT."""
    process = spawn(*SLEEP)
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: state_of(process.pid) == "T", "it is stopped")
    assert fence.fence(RUN_ID, 1).left == ()
    assert process.wait(PATIENCE_S) == -9


def test_a_reused_pid_is_not_hit(spawn: Spawner) -> None:
    """The number alone is nobody: another start time means another process."""
    process = spawn(*SLEEP)
    found = wait_until(lambda: fence.find(RUN_ID, 1), "it runs")[0]
    fence._kill(fence.replace(found, start=found.start - 1))
    fence._kill(fence.replace(found, pid=2**22 + 1))
    assert process.poll() is None
    fence._kill(found)
    assert process.wait(PATIENCE_S) == -9


def test_a_wrapper_dies_with_its_program(agent: Agent, start: Starter, folder: Path) -> None:
    """Fencing a rank that is well ends wrapper and program, so that nobody starts anything again."""
    process = start("sleep", "600")
    agent.expect("register")
    agent.go(log=str(folder / "rank.log"))
    child = wait_until(lambda: child_of(process.pid), "the program runs")
    assert fence.fence(RUN_ID, 2).left == ()
    assert process.wait(PATIENCE_S) in (-9, 137)
    assert is_gone(child)


def test_writers_are_programs_not_wrappers(agent: Agent, folder: Path) -> None:
    """Who may still write a checkpoint: alive until it ends, known to be stopped, gone when it is killed."""
    process = start_rank(rank_env(folder), *SLEEP)
    assert fence.writers(RUN_ID, 2) == fence.Writers(alive=frozenset(), stopped=frozenset())
    agent.expect("register")
    assert fence.writers(RUN_ID, 2).alive == frozenset()
    agent.go(log=str(folder / "rank.log"))
    child = wait_until(lambda: child_of(process.pid), "the program runs")
    alone = frozenset({child})
    wait_until(lambda: fence.writers(RUN_ID, 2) == fence.Writers(alive=alone, stopped=frozenset()), "it may write")
    assert fence.writers(RUN_ID, 1).alive == frozenset()
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: fence.writers(RUN_ID, 2).stopped == alone, "it is seen to be stopped")
    os.kill(child, signal.SIGKILL)
    agent.expect("exit")
    assert fence.writers(RUN_ID, 2).alive == frozenset()
    process.communicate()


def test_a_step_is_told_from_the_batch_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's cgroup names of version 1 and 2: numbered steps count, the batch step is shared with ourselves."""
    cases = {
        "0::/system.slice/slurmstepd.scope/job_7/step_3/user/task_1": "/system.slice/slurmstepd.scope/job_7/step_3",
        "4:memory:/slurm/uid_1000/job_7/step_3/task_0\n0::/": "memory/slurm/uid_1000/job_7/step_3",
        "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0": None,
        "0::/": None,
        "": None,
    }
    monkeypatch.setattr(fence, "PROC", str(tmp_path))
    (tmp_path / "5").mkdir()
    for text, expected in cases.items():
        (tmp_path / "5" / "cgroup").write_text(text)
        found = fence.step_group(5)
        assert (found and found.removeprefix("/sys/fs/cgroup").lstrip("/")) == (expected and expected.lstrip("/"))


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup that looks like a job step's."""
    for base in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        path = base / f"ftslurm-test-{os.getpid()}" / "job_1" / "step_1"
        try:
            path.mkdir(parents=True)
        except OSError:
            continue
        if (path / "cgroup.procs").exists() and any(path.glob("memory.*")):
            yield path
            _remove(path)
            return
        _remove(path)
    pytest.skip("no memory cgroup can be created here (needs root and a writable hierarchy)")


def test_members_of_the_steps_cgroup_die(spawn: Spawner, group: Path) -> None:
    """No environment and no parent: the job step's cgroup still knows it; a group with an agent in it is spared."""
    hidden, shared = spawn("env", "-i", *SLEEP, attempt=None), spawn(*SLEEP, FTSLURM_ROLE="agent")
    (group / "cgroup.procs").write_text(str(hidden.pid))
    assert fence.find(RUN_ID, 1) == ()
    assert [proc.pid for proc in fence.find(RUN_ID, 1, groups={str(group)})] == [hidden.pid]
    (group / "cgroup.procs").write_text(str(shared.pid))
    assert fence.find(RUN_ID, 1, groups={str(group)}) == ()
    shared.kill()
    shared.wait(PATIENCE_S)
    assert fence.fence(RUN_ID, 1, groups={str(group)}).left == ()
    assert hidden.wait(PATIENCE_S) == -9


def test_kills_by_the_memory_killer_are_counted(spawn: Spawner, group: Path) -> None:
    """A rank that outgrew its memory is told apart from one that somebody killed."""
    limit = next(group.glob("memory.limit_in_bytes"), group / "memory.max")
    limit.write_text(str(48 * 2**20))
    code = "import sys; sys.stdin.read(); x = bytearray(256 << 20)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    (group / "cgroup.procs").write_text(str(process.pid))
    sleeper = spawn(*SLEEP)
    (group / "cgroup.procs").write_text(str(sleeper.pid))
    assert fence.oom_kills(sleeper.pid) == 0
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -9
    assert fence.oom_kills(sleeper.pid) == 1
    sleeper.kill()
    sleeper.wait(PATIENCE_S)
    assert fence.oom_kills(sleeper.pid) is None


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Path]:
    """A file system on which every write waits in the kernel until the test is over."""
    image, folder = tmp_path / "image", tmp_path / "frozen"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(8 * 2**20)
    for argv in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        if subprocess.run(argv, check=False, capture_output=True, timeout=PATIENCE_S).returncode:
            pytest.skip(f"`{argv[0]}` does not work here (needs root and loop devices)")
    subprocess.run(["fsfreeze", "-f", str(folder)], check=True, timeout=PATIENCE_S)
    yield folder
    subprocess.run(["fsfreeze", "-u", str(folder)], check=False, timeout=PATIENCE_S)
    subprocess.run(["umount", str(folder)], check=True, timeout=PATIENCE_S)


def test_what_cannot_be_killed_is_named(spawn: Spawner, frozen: Path) -> None:
    """A process that waits in the kernel for dead storage survives SIGKILL: the report says who, and where it waits."""
    process = spawn("sh", "-c", f"echo x > {frozen}/file")
    wait_until(lambda: state_of(process.pid) == "D", "it waits for the file system")
    report = fence.fence(RUN_ID, 1, 0.3)
    assert len(report.left) == 1
    assert report.left[0].startswith(f"{process.pid} sh (state D, in ")
    assert "unknown" not in report.left[0]
    subprocess.run(["fsfreeze", "-u", str(frozen)], check=True, timeout=PATIENCE_S)
    assert fence.fence(RUN_ID, 1).left == ()
    assert process.wait(PATIENCE_S) == -9


def _remove(path: Path) -> None:
    for folder in (path, path.parent, path.parent.parent):
        wait_until(partial(_rmdir, folder), f"{folder} is empty")


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return not folder.exists()
    return True
