"""A disk that forgets: replays every prefix of what a program did to its files, with unsynced writes and names dropped.

`record` watches the system calls that change files, whatever thread makes them. `states` then gives, for each moment of
a crash, the extremes of what POSIX allows the disk to hold: file contents as of the last fsync, as written, or as long
as written but with zeros where nothing was synced; names as of the last fsync of their folder or as changed. (After
"All File Systems Are Not Created Equal", OSDI 2014.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import pytest

Op = tuple[str, ...] | tuple[object, ...]
UNTRACED = ("pwritev", "writev", "posix_fallocate", "truncate", "replace", "symlink", "sendfile", "copy_file_range")
"""Calls that change files, and that nothing of ours makes: whoever begins to has to teach the recorder."""
TRACED = ("open", "write", "pwrite", "fsync", "ftruncate", "rename", "link", "unlink", "mkdir", "rmdir")


@dataclass
class Recorder:
    """Knows which path each descriptor is, and lists what was done below `root`."""

    root: Path
    ops: list[Op] = field(default_factory=list)
    paths: dict[int, str] = field(default_factory=dict)
    real: dict[str, Callable] = field(default_factory=dict)
    before: Callable[[str], None] = lambda _: None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def traced(self, name: str) -> Callable:
        """The call of this name, listed; one at a time, so that the list is in the order of what happened."""
        call = getattr(self, name)

        def locked(*args, **more):
            with self.lock:
                return call(*args, **more)

        return locked

    def path(self, name: object, dir_fd: int | None) -> str:
        text = os.fspath(name)
        text = text if dir_fd is None else str(Path(self.paths[dir_fd]) / text)
        return os.path.relpath(text, self.root)

    def open(self, name, flags, mode=0o777, *, dir_fd=None):
        path = self.path(name, dir_fd)
        full = self.root / path
        is_new = flags & os.O_CREAT and not os.path.lexists(full)
        if is_new:
            self.before("create")
        fd = self.real["open"](name, flags, mode, dir_fd=dir_fd)
        self.paths[fd] = str(full)
        if is_new:
            self.ops.append(("create", path))
        elif flags & os.O_TRUNC:
            self.ops.append(("truncate", path, 0))
        return fd

    def write(self, fd, data):
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        self.before("write")
        count = self.real["write"](fd, data)
        self.ops.append(("write", self.path(self.paths[fd], None), offset, bytes(data[:count])))
        return count

    def pwrite(self, fd, data, offset):
        self.before("pwrite")
        count = self.real["pwrite"](fd, data, offset)
        self.ops.append(("write", self.path(self.paths[fd], None), offset, bytes(data[:count])))
        return count

    def fsync(self, fd):
        self.before("fsync")
        self.real["fsync"](fd)
        self.ops.append(("fsync", self.path(self.paths[fd], None)))

    def ftruncate(self, fd, size):
        self.before("ftruncate")
        self.real["ftruncate"](fd, size)
        self.ops.append(("truncate", self.path(self.paths[fd], None), size))

    def rename(self, old, new, *, src_dir_fd=None, dst_dir_fd=None):
        self.before("rename")
        self.real["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self.ops.append(("rename", self.path(old, src_dir_fd), self.path(new, dst_dir_fd)))

    def link(self, old, new, *, src_dir_fd=None, dst_dir_fd=None, follow_symlinks=True):
        self.before("link")
        self.real["link"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
        self.ops.append(("link", self.path(old, src_dir_fd), self.path(new, dst_dir_fd)))

    def unlink(self, name, *, dir_fd=None):
        self.before("unlink")
        self.real["unlink"](name, dir_fd=dir_fd)
        self.ops.append(("unlink", self.path(name, dir_fd)))

    def mkdir(self, name, mode=0o777, *, dir_fd=None):
        self.before("mkdir")
        self.real["mkdir"](name, mode, dir_fd=dir_fd)
        self.ops.append(("mkdir", self.path(name, dir_fd)))

    def rmdir(self, name, *, dir_fd=None):
        self.before("rmdir")
        self.real["rmdir"](name, dir_fd=dir_fd)
        self.ops.append(("unlink", self.path(name, dir_fd)))


@contextlib.contextmanager
def record(root: Path, before: Callable[[str], None] = lambda _: None) -> Iterator[list[Op]]:
    """List what is done below `root`; `before` is called with the name of each call that changes something."""
    recorder = Recorder(root, before=before)
    with pytest.MonkeyPatch.context() as patch:
        for name in TRACED:
            recorder.real[name] = getattr(os, name)
            patch.setattr(os, name, recorder.traced(name))
        for name in UNTRACED:
            patch.setattr(os, name, _refuse(name))
        yield recorder.ops


def _refuse(name: str) -> Callable:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError(f"the recorder does not know os.{name}")

    return refused


def run_and_die(root: Path, work: Callable[[], object], calls: int) -> bool:
    """Run `work` in a child that is killed before its call number `calls` below `root`; True if it lived to its end.

    SIGKILL leaves no time for any `finally`.
    """
    child = os.fork()
    if child == 0:
        left = [calls]

        def before(_: str) -> None:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

        try:
            with record(root, before):
                work()
        except BaseException:  # noqa: BLE001 - the child must not return into pytest
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, -signal.SIGKILL}
    return code == 0


class Kept(Enum):
    """What is left of a file's content."""

    WRITTEN = auto()
    SYNCED = auto()
    HOLES = auto()
    """As long as it was written, with zeros where nothing was synced: the size was safe before the blocks were."""


@dataclass
class Disk:
    """Files and folders, each as it is and as it would be after a power cut."""

    names: dict[str, int] = field(default_factory=dict)
    safe_names: dict[str, int] = field(default_factory=dict)
    data: dict[int, bytearray | None] = field(default_factory=dict)
    safe_data: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path) -> Disk:
        """What lies below `root`, all of it safe."""
        disk = cls()
        for path in sorted(root.rglob("*")):
            number = disk.add(str(path.relative_to(root)), None if path.is_dir() else bytearray(path.read_bytes()))
            disk.safe_data[number] = bytes(disk.data[number] or b"")
        disk.safe_names = dict(disk.names)
        return disk

    def add(self, name: str, content: bytearray | None) -> int:
        number = len(self.data)
        self.data[number] = content
        self.names[name] = number
        return number

    def apply(self, op: Op) -> None:
        """Do one recorded thing."""
        kind, name, *rest = op
        assert isinstance(name, str)
        if kind in {"create", "mkdir"}:
            self.add(name, bytearray() if kind == "create" else None)
        elif kind == "write":
            self._write(name, *rest)
        elif kind == "truncate":
            content = self.data[self.names[name]]
            assert content is not None
            del content[rest[0] :]
        elif kind == "unlink":
            del self.names[name]
        elif kind == "link":
            self.names[rest[0]] = self.names[name]
        elif kind == "rename":
            self._rename(name, rest[0])
        else:
            self._fsync(name)

    def _write(self, name: str, offset: int, piece: bytes) -> None:
        content = self.data[self.names[name]]
        assert content is not None
        content.extend(b"\0" * (offset - len(content)))
        content[offset : offset + len(piece)] = piece

    def _rename(self, old: str, new: str) -> None:
        if self.names.get(new) == self.names[old]:
            return
        for name in [name for name in self.names if name == old or name.startswith(f"{old}/")]:
            self.names[new + name[len(old) :]] = self.names.pop(name)

    def _fsync(self, name: str) -> None:
        number = self.names.get(name)
        if name != "." and number is not None and self.data[number] is not None:
            self.safe_data[number] = bytes(self.data[number] or b"")
            return
        inside = "" if name == "." else f"{name}/"
        for each in {*self.names, *self.safe_names}:
            if each.startswith(inside) and "/" not in each[len(inside) :]:
                self._make_name_safe(each)

    def _make_name_safe(self, name: str) -> None:
        """A folder that moved takes along what was safe below it (names belong to the folder, not to the path)."""
        if name in self.names:
            number = self.names[name]
            old = next((each for each, known in self.safe_names.items() if known == number and each != name), None)
            self.safe_names[name] = number
            if old is not None and self.data[number] is None:
                for each in [each for each in self.safe_names if each.startswith(f"{old}/")]:
                    self.safe_names[name + each[len(old) :]] = self.safe_names.pop(each)
        else:
            for each in [each for each in self.safe_names if each == name or each.startswith(f"{name}/")]:
                del self.safe_names[each]

    def content(self, number: int, kept: Kept) -> bytes:
        """What a crash leaves of a file."""
        written, synced = bytes(self.data[number] or b""), self.safe_data.get(number, b"")
        if kept is Kept.WRITTEN:
            return written
        return synced if kept is Kept.SYNCED else synced[: len(written)].ljust(len(written), b"\0")

    def write_to(self, root: Path, *, safe_names: bool, kept: Kept) -> None:
        """Make the disk real."""
        names = self.safe_names if safe_names else self.names
        for name in sorted(names):
            content = self.data[names[name]]
            path = root / name
            if not path.parent.is_dir():
                continue  # its folder's own name was lost
            if content is None:
                path.mkdir()
            else:
                path.write_bytes(self.content(names[name], kept))


def states(before: Disk, ops: list[Op], place: Path) -> Iterator[tuple[str, Path]]:
    """Every state that a crash can leave, each in a fresh folder below `place`; the name says which."""
    for moment in range(len(ops) + 1):
        for safe_names in (True, False):
            for kept in Kept:
                root = place / f"{moment}-{safe_names}-{kept.name}"
                root.mkdir(parents=True)
                before.write_to(root, safe_names=safe_names, kept=kept)
                after = ops[moment - 1] if moment else "nothing"
                yield f"after {str(after)[:200]} names {safe_names} data {kept.name}", root
        if moment < len(ops):
            before.apply(ops[moment])
