"""Writers that are real processes, killed and stopped in the middle of a save (they leave files that look settled)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftslurm.checkpoint.capture import Author, capture
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.patterns import Patterns
from ftslurm.checkpoint.watch import Rules, Watcher
from ftslurm.checkpoint.writers import Writers, is_open_for_writing, look, open_by
from tests.checkpoint.world import AT, RUN, World

SETTLE_S = 0.45
SCAN_S = 0.05
LIMIT_S = 60.0
MIB = 1 << 20

# argv: kind, file, MiB, seconds between pieces. Says "go" before the first byte, then waits for ever when it is done.
PROGRAM = """
import os, sys, time, zipfile
kind, path, mib, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
print("go", flush=True)
def pieces():
    for number in range(mib):
        yield bytes([number % 251]) * (1 << 20)
        time.sleep(pause)
if kind == "raw":
    with open(path, "wb", buffering=0) as file:
        for piece in pieces():
            file.write(piece)
elif kind == "zip":
    with zipfile.ZipFile(path, "w") as archive:
        for number, piece in enumerate(pieces()):
            archive.writestr(f"archive/data/{number}", piece)
elif kind == "mmap":
    import mmap
    with open(path, "wb+") as file:
        file.truncate(mib << 20)
        area = mmap.mmap(file.fileno(), 0)
    for number, piece in enumerate(pieces()):
        area[number << 20 : (number + 1) << 20] = piece
    area.flush()
    area.close()
elif kind == "child":
    import multiprocessing
    def save():
        with open(path, "wb", buffering=0) as file:
            for piece in pieces():
                file.write(piece)
            time.sleep(3600)  # it is killed before it closes the file, however late that is
    child = multiprocessing.get_context("fork").Process(target=save)
    child.start()
    print(child.pid, flush=True)
    child.join()
time.sleep(3600)
"""


@dataclass
class Stage:
    """One node with a watched folder, and the processes that the test starts there."""

    world: World
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    watcher: Watcher | None = None
    saved: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    extra: set[int] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        return self.world.scratch("n1").write

    def writer(self, kind: str, name: str, mib: int = 40, pause: float = 0.05) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", PROGRAM, kind, str(self.folder / name), str(mib), str(pause)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        return process

    def begin(self, attempt: int) -> None:
        if self.watcher is not None:
            self.watcher.close()
        rules = Rules(patterns=Patterns.parse("step_*"), settle_s=SETTLE_S)
        self.watcher = Watcher(self.folder, rules, self.world.scratch("n1").baseline(attempt))
        self.attempt = attempt

    def writers(self) -> Writers:
        for process in self.processes:
            process.poll()
        return look([process.pid for process in self.processes], self.extra)

    def scan(self) -> None:
        assert self.watcher is not None
        self._take(self.watcher.scan(time.monotonic(), self.writers))

    def end(self) -> None:
        """The attempt is over: every process of it is killed."""
        self.kill_all()
        assert self.watcher is not None
        self._take(self.watcher.attempt_ended(time.monotonic()))

    def kill_all(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(LIMIT_S)
            assert process.stdout is not None
            process.stdout.close()
        self.processes.clear()

    def _take(self, found) -> None:
        self.refused |= dict(found.refused)
        for files in found.complete:
            scratch = self.world.scratch("n1")
            author = Author(run_id=RUN, attempt=self.attempt, node="n1", world_size=1)
            part = capture(files, scratch.write, scratch.generations, author)
            name = part.folder.name
            self.world.contents[name] = {
                each.name: (scratch.write / each.name).read_bytes() for each in part.manifest.files
            }
            assert drain_part(part.folder, "n1", Target(destination=str(self.world.store))).ok
            commit_durable(self.world.store, self.world.commit(files.step, {"n1": part}, self.attempt), patience_s=0)
            self.saved.append(name)

    def scan_until(self, done: Callable[[], bool], what: str) -> None:
        """Scan until something is so, at most LIMIT_S."""
        deadline = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < deadline, f"never: {what}"
            self.scan()
            time.sleep(SCAN_S)

    def scan_for(self, seconds: float) -> None:
        """Scan for a while."""
        until = time.monotonic() + seconds
        self.scan_until(lambda: time.monotonic() >= until, "the end of a while")

    def has_seen(self, pid: int) -> bool:
        """Whether a scan came by while this process was writing."""
        assert self.watcher is not None
        return any(pid in candidate.held_by for candidate in self.watcher._memory.candidates.values())

    def size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0


@pytest.fixture
def stage(world: World) -> Iterator[Stage]:
    """A node on which step 1 was saved well by attempt 0, and attempt 1 has begun."""
    prepare_store(world.store, RUN, AT)
    made = Stage(world)
    made.begin(0)
    made.writer("zip", "step_1.pt", mib=2, pause=0)
    made.scan_until(lambda: made.saved == ["000000001-0000"], "step 1")
    made.kill_all()
    made.begin(1)
    yield made
    made.kill_all()
    assert made.watcher is not None
    made.watcher.close()


def assert_falls_back(stage: Stage) -> None:
    """The next restart gets step 1, byte for byte."""
    generation, result, _ = stage.world.restore_newest("n1")
    assert generation == "000000001-0000"
    assert result.path.name == "step_1.pt"
    stage.world.assert_restored(generation, "n1")


@pytest.mark.parametrize("kind", ["raw", "zip", "mmap"])
def test_a_writer_killed_in_the_middle_of_a_save(stage: Stage, kind: str) -> None:
    """SIGKILL leaves a file that no longer grows; it never becomes a checkpoint, and the previous one loads."""
    process = stage.writer(kind, "step_2.pt")
    stage.scan_until(lambda: stage.size("step_2.pt") > 10 * MIB, "10 MiB written")
    process.send_signal(signal.SIGKILL)
    stage.scan_for(5 * SETTLE_S)
    stage.end()
    assert stage.saved == ["000000001-0000"]
    assert "step_2.pt" in stage.refused
    assert_falls_back(stage)


@pytest.mark.parametrize("kind", ["raw", "zip", "mmap"])
def test_a_writer_stopped_in_the_middle_of_a_save(stage: Stage, kind: str) -> None:
    """SIGSTOP for many settle times never makes a checkpoint; the attempt's end drops it, the previous one loads."""
    process = stage.writer(kind, "step_2.pt")
    stage.scan_until(lambda: stage.size("step_2.pt") > 10 * MIB, "10 MiB written")
    process.send_signal(signal.SIGSTOP)
    stage.scan_for(5 * SETTLE_S)
    assert stage.saved == ["000000001-0000"]
    stage.end()
    assert "step_2.pt" in stage.refused
    assert_falls_back(stage)


@pytest.mark.parametrize("kind", ["raw", "zip", "mmap"])
def test_a_writer_that_goes_on_after_a_stop_saves_its_checkpoint(stage: Stage, kind: str) -> None:
    """A stop delays a checkpoint, and does not lose it."""
    process = stage.writer(kind, "step_2.pt", mib=12, pause=0.02)
    stage.scan_until(lambda: stage.size("step_2.pt") > MIB, "1 MiB written")
    process.send_signal(signal.SIGSTOP)
    stage.scan_for(3 * SETTLE_S)
    process.send_signal(signal.SIGCONT)
    stage.scan_until(lambda: len(stage.saved) == 2, "step 2")
    assert len(stage.world.contents["000000002-0001"]["step_2.pt"]) >= 12 * MIB


def test_a_writer_that_pauses_longer_than_the_settle_time(stage: Stage) -> None:
    """A slow writer holds its file open, and is waited for."""
    stage.writer("raw", "step_2.pt", mib=3, pause=3 * SETTLE_S)
    stage.scan_until(lambda: len(stage.saved) == 2, "step 2")
    assert len(stage.world.contents["000000002-0001"]["step_2.pt"]) == 3 * MIB


def test_a_saving_child_that_is_killed_while_the_rank_lives(stage: Stage) -> None:
    """An asynchronous saver that dies (out of memory, say) leaves a half file, although every rank is well."""
    process = stage.writer("child", "step_2.bin")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    stage.extra.add(child)
    stage.scan_until(lambda: stage.size("step_2.bin") > 10 * MIB and stage.has_seen(child), "10 MiB written")
    os.kill(child, signal.SIGKILL)
    stage.scan_until(lambda: "step_2.bin" in stage.refused, "a refusal")
    assert f"process {child}, ended before" in stage.refused["step_2.bin"]
    assert_falls_back(stage)


@pytest.mark.parametrize("leases", [True, False])
def test_who_has_a_file_open_for_writing(tmp_path: Path, leases: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's lease and a look through /proc agree: readers do not count, writers and mappings do."""
    if not leases:
        monkeypatch.setattr("ftslurm.checkpoint.writers._LEASES_HOLD", frozenset())
        monkeypatch.setattr("ftslurm.checkpoint.writers._leases_hold", lambda _: False)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8192)
    me = frozenset({os.getpid()})
    with path.open("rb") as reader, path.open("rb") as probe:
        assert reader.read(1) == b"x"
        assert not is_open_for_writing(probe.fileno(), me)
        with path.open("ab"):
            assert is_open_for_writing(probe.fileno(), me)
            assert open_by(probe.fileno(), me) == me
        assert not is_open_for_writing(probe.fileno(), me)
        _assert_mapping_counts(path, probe.fileno(), me)


def _assert_mapping_counts(path: Path, probe: int, me: frozenset[int]) -> None:
    import mmap

    with path.open("r+b") as file:
        area = mmap.mmap(file.fileno(), 0)
    assert is_open_for_writing(probe, me)
    area.close()
    assert not is_open_for_writing(probe, me)


def test_the_states_of_processes() -> None:
    """Living, stopped and dead processes are told apart, and the unwaited dead are dead."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        assert look([process.pid]) == Writers(alive=frozenset({process.pid}))
        process.send_signal(signal.SIGSTOP)
        _wait_for_state(process.pid, "T")
        assert look([process.pid]).stopped == frozenset({process.pid})
        process.kill()
        _wait_for_state(process.pid, "Z")
        assert look([process.pid]) == Writers(alive=frozenset(), ranks_lost=1)
    finally:
        process.kill()
        process.wait(LIMIT_S)


def _wait_for_state(pid: int, state: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline, f"process {pid} never came to state {state}"
        time.sleep(0.01)
