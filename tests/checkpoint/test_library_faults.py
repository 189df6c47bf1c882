"""Storage that is full, broken, read-only or does not answer: training goes on, and the previous checkpoint stays."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ftslurm.checkpoint.background import Background
from ftslurm.checkpoint.commit import commit_durable
from ftslurm.checkpoint.drain import DrainReport, Target, drain_part
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.core.manifest import generation_name
from ftslurm.errors import StorageError
from ftslurm.lab.passthrough import Fault
from tests.checkpoint.libraryworld import RANKS, Library, nodes

OLD, NEW = "000000010-0000", "000000020-0000"
LIMIT_S = 30.0
FAULTS = [Fault.FULL, Fault.OVER_QUOTA, Fault.READ_ONLY, Fault.BROKEN, Fault.STALE]


def wait_until(what, why: str) -> None:
    """Poll, for at most LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


@dataclass
class Ill:
    """A mounted file system that fails as it is told (`ftslurm.lab.passthrough`)."""

    path: Path
    control: Path
    process: subprocess.Popen

    def fail(self, fault: Fault) -> None:
        fresh = self.control.with_suffix(".new")
        fresh.write_text(fault.value)
        fresh.replace(self.control)

    def freeze(self) -> None:
        """It takes no request any more."""
        self.process.send_signal(signal.SIGSTOP)

    def restore(self) -> None:
        self.fail(Fault.NONE)
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def ill(tmp_path: Path) -> Iterator[Ill]:
    """Mounted and well; skipped where this user may not mount."""
    pytest.importorskip("mfusepy")
    if not os.access("/dev/fuse", os.W_OK) or os.geteuid() != 0:
        pytest.skip("needs root and /dev/fuse")
    for name in ("backing", "mount"):
        (tmp_path / name).mkdir()
    control = tmp_path / "fault"
    control.write_text(Fault.NONE.value)
    program = [sys.executable, "-m", "ftslurm.lab.passthrough", str(tmp_path / "backing"), str(tmp_path / "mount")]
    process = subprocess.Popen([*program, str(control)], stderr=subprocess.PIPE)
    made = Ill(tmp_path / "mount", control, process)
    try:
        wait_until(lambda: made.path.is_mount() or process.poll() is not None, "it does not mount")
        if process.poll() is not None:
            pytest.skip(f"FUSE does not work here: {process.communicate()[1][-200:]!r}")
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.restore()
        subprocess.run(["umount", "--lazy", str(made.path)], check=False, capture_output=True, timeout=LIMIT_S)
        process.kill()
        process.communicate(timeout=LIMIT_S)


@dataclass
class Training:
    """Steps that want to be saved, each in the background of the next; what was told of each save."""

    library: Library
    step: int = 10
    accepted: list[int] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.background: Background[str] = Background(self._told)

    def _told(self, generation: str | None, error: Exception | None) -> None:
        if generation is not None:
            self.saved.append(generation)
        if error is not None:
            self.errors.append(error)

    def run(self, steps: int, *, wait: bool = True) -> None:
        """So many steps, a save after each where the one before is finished."""
        for _ in range(steps):
            self.step += 1
            step = self.step
            if self.background.submit(lambda step=step: self.library.save(step)):
                self.accepted.append(step)
            if wait:
                assert self.background.wait(LIMIT_S)

    @property
    def told(self) -> int:
        """How many saves had an end."""
        return len(self.saved) + len(self.errors)


def start(folder: Path) -> Training:
    """Step 10 is durable in a store there."""
    library = Library(folder / "w", rows=64).prepare()
    assert library.save(10) == OLD
    return Training(library)


@pytest.mark.parametrize("fault", FAULTS)
def test_training_goes_on_while_storage_fails(ill: Ill, fault: Fault) -> None:
    """Each save is reported once; the old checkpoint stays; when the storage is well, saves work again."""
    training = start(ill.path)
    ill.fail(fault)
    training.run(3)
    assert training.step == 13
    assert training.accepted == [11, 12, 13]
    assert (len(training.errors), training.saved) == (3, [])
    assert all(isinstance(error, StorageError) and "\n" not in str(error) for error in training.errors)
    if fault not in {Fault.BROKEN, Fault.STALE}:
        assert training.library.newest()[0] == OLD
    ill.restore()
    assert training.library.newest()[0] == OLD
    training.run(1)
    assert training.library.newest()[0] == training.saved[-1] == generation_name(14, 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_could_not_be_saved_can_be_saved_later(ill: Ill, fault: Fault) -> None:
    """The same rank, the same name: nothing that was left stands in the way, and nothing half is taken for whole."""
    training = start(ill.path)
    ill.fail(fault)
    with pytest.raises(StorageError):
        training.library.save(20)
    ill.restore()
    assert training.library.save(20) == NEW
    assert training.library.newest() == (NEW, [])


def test_training_goes_on_while_storage_does_not_answer(ill: Ill) -> None:
    """The save in flight waits, further ones are skipped, steps are made; thawed, it ends well."""
    training = start(ill.path)
    ill.freeze()
    training.run(50, wait=False)
    assert training.step == 60
    assert training.accepted == [11]
    assert training.told == 0
    assert not training.background.wait(0.05)
    ill.restore()
    assert training.background.wait(LIMIT_S)
    assert training.saved == [generation_name(11, 0)]
    training.run(1)
    assert training.told == len(training.accepted) == 2
    assert training.library.newest()[0] == generation_name(61, 0)


def to_scratch(training: Training, folder: Path) -> GenerationPaths:
    """Step 20, on the nodes."""
    paths = GenerationPaths(folder / "scratch" / "gen" / NEW)
    for rank in RANKS:
        training.library.write(paths, 20, rank)
    return paths


def drain(training: Training, paths: GenerationPaths) -> list[DrainReport]:
    """What the agents do."""
    target = Target(destination=str(training.library.store), patience_s=0.0)
    return [drain_part(paths.root, node, target) for node in nodes()]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_drain_to_failing_storage_says_so_and_works_later(ill: Ill, tmp_path: Path, fault: Fault) -> None:
    """No exception, one reason for each node, the old checkpoint stays; later the same call brings everything."""
    training = start(ill.path)
    paths = to_scratch(training, tmp_path)
    ill.fail(fault)
    reports = drain(training, paths)
    assert all(report.error and not report.damaged and "\n" not in report.error for report in reports)
    with pytest.raises(StorageError):
        commit_durable(training.library.store, training.library.commit_of(paths), patience_s=0)
    ill.restore()
    assert training.library.newest()[0] == OLD
    assert all(report.ok for report in drain(training, paths))
    commit_durable(training.library.store, training.library.commit_of(paths), patience_s=0)
    assert training.library.newest() == (NEW, [])


def test_a_drain_waits_for_storage_that_does_not_answer(ill: Ill, tmp_path: Path) -> None:
    """Training saves to its scratch meanwhile; thawed, the drain ends well."""
    training = start(ill.path)
    paths = to_scratch(training, tmp_path)
    elsewhere = start(tmp_path / "scratch")
    ill.freeze()
    reports: list[DrainReport] = []
    waiting = threading.Thread(target=lambda: reports.extend(drain(training, paths)), daemon=True)
    waiting.start()
    elsewhere.run(3)
    assert len(elsewhere.saved) == 3
    assert waiting.is_alive()
    ill.restore()
    waiting.join(LIMIT_S)
    assert [report.ok for report in reports] == [True, True]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "ftslurm-test", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small file system")
    if subprocess.run(mount, check=False, capture_output=True, timeout=LIMIT_S).returncode:
        pytest.skip("this root may not mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=LIMIT_S)


def test_a_disk_that_runs_full_in_the_middle_of_the_data(small: Path) -> None:
    """Both files of the rank are taken away again, so that the room is there for others; larger, it works."""
    training = start(small)
    library = training.library
    free = shutil.disk_usage(small).free
    library.rows = 2600
    training.run(2)
    assert [type(error) for error in training.errors] == [StorageError, StorageError]
    assert all("No space left" in str(error) for error in training.errors)
    assert not [
        path for path in library.store.rglob("*") if path.is_file() and OLD not in str(path) and "0000" in path.name
    ]
    assert abs(shutil.disk_usage(small).free - free) < 100_000
    library.rows = 64
    assert library.newest()[0] == OLD
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True, timeout=LIMIT_S)
    library.rows = 2600
    training.run(1)
    assert library.newest()[0] == training.saved[0]
