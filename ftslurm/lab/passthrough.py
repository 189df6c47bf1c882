"""A file system that hands everything through to a folder, until it is told to fail: the lab's ill shared storage.

Run as a program in the login host: `python -I -m ftslurm.lab.passthrough BACKING MOUNT_POINT CONTROL`. CONTROL is a
file outside of the mount with one word of `Fault` in it.

It can stop answering in two ways. Stopped with SIGSTOP it takes no request: whoever uses the file system waits, but can
be killed, as on NFS. With the word HANG it takes requests and keeps them: then the kernel lets nobody go, SIGKILL or
not (state D), as with a driver that is stuck.

Nothing is cached for longer than an open file lives, so a fault shows at the next call. Permissions are checked by the
kernel (`default_permissions`); what is created belongs to the caller. Needs libfuse and the package mfusepy; fuse(4).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Protocol

_POLL_S = 0.05


class Fault(StrEnum):
    """How the storage fails; the words in capitals are names of errnos."""

    NONE = "none"
    HANG = "hang"  # every request waits, and so does who made it, whatever signal he gets
    OVER_QUOTA = "EDQUOT"  # what needs room fails
    FULL = "ENOSPC"  # what needs room fails, and statfs says so
    READ_ONLY = "EROFS"  # every change fails
    BROKEN = "EIO"  # everything fails
    STALE = "ESTALE"  # everything fails, as after a file server was replaced

    @property
    def number(self) -> int:
        """The errno."""
        return int(getattr(errno, self.value))


NEEDS_ROOM = frozenset({Fault.OVER_QUOTA, Fault.FULL, Fault.READ_ONLY, Fault.BROKEN, Fault.STALE})
CHANGES = NEEDS_ROOM - {Fault.OVER_QUOTA, Fault.FULL}
READS = frozenset({Fault.BROKEN, Fault.STALE})


class OpenFile(Protocol):
    """What libfuse keeps for an open file (struct fuse_file_info)."""

    flags: int
    fh: int


class Passthrough:
    """The operations of libfuse's high-level interface; paths begin with `/` and mean the mount point."""

    use_ns = True

    def __init__(self, backing: Path, control: Path) -> None:
        self._backing = str(backing)
        self._control = control

    def _real(self, path: str) -> Path:
        return Path(self._backing + path)

    def _check(self, failing: frozenset[Fault]) -> None:
        """Fail now if the present fault is one of these."""
        while (fault := self._fault()) == Fault.HANG:
            time.sleep(_POLL_S)
        if fault in failing:
            raise OSError(fault.number, os.strerror(fault.number))

    def _fault(self) -> Fault:
        return Fault(self._control.read_text(encoding="ascii").strip())

    def _give_to_caller(self, real: Path) -> None:
        import mfusepy

        user, group, _ = mfusepy.fuse_get_context()
        os.chown(real, user, group, follow_symlinks=False)

    # --- reading ------------------------------------------------------------------------------------------------------

    def getattr(self, path: str, info: OpenFile | None = None) -> dict[str, int]:
        """Type, size, owner and times of the file itself."""
        del info
        self._check(READS)
        found = self._real(path).lstat()
        plain = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_blocks", "st_blksize")
        times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in "amc"}
        return {name: getattr(found, name) for name in plain} | times

    def readdir(self, path: str, handle: int) -> Iterator[str]:
        """Names in a folder."""
        del handle
        self._check(READS)
        yield from (".", "..", *os.listdir(self._real(path)))

    def readlink(self, path: str) -> str:
        """Target of a symbolic link."""
        self._check(READS)
        return str(self._real(path).readlink())

    def open(self, path: str, info: OpenFile) -> int:
        """Open what exists; appending is done by the kernel, which sends offsets."""
        writing = info.flags & os.O_ACCMODE != os.O_RDONLY
        self._check(CHANGES if writing else READS)
        info.fh = os.open(self._real(path), info.flags & ~(os.O_APPEND | os.O_DIRECT))
        return 0

    def read(self, path: str, size: int, offset: int, info: OpenFile) -> bytes:
        """Bytes at an offset."""
        del path
        self._check(READS)
        return os.pread(info.fh, size, offset)

    def statfs(self, path: str) -> dict[str, int]:
        """Sizes of the file system; a full one says so."""
        self._check(READS)
        found = os.statvfs(self._real(path))
        names = (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        )
        values = {name: int(getattr(found, name)) for name in names}
        if self._fault() == Fault.FULL:
            values |= {"f_bfree": 0, "f_bavail": 0}
        return values

    def release(self, path: str, info: OpenFile) -> int:
        """The last close(2)."""
        del path
        os.close(info.fh)
        return 0

    # --- what needs room ----------------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, info: OpenFile) -> int:
        """Open what does not exist yet."""
        self._check(NEEDS_ROOM)
        real = self._real(path)
        info.fh = os.open(real, (info.flags | os.O_CREAT) & ~(os.O_APPEND | os.O_DIRECT), mode)
        self._give_to_caller(real)
        return 0

    def write(self, path: str, data: bytes, offset: int, info: OpenFile) -> int:
        """Store bytes at an offset."""
        del path
        self._check(NEEDS_ROOM)
        return os.pwrite(info.fh, data, offset)

    def mkdir(self, path: str, mode: int) -> int:
        """Make a folder that belongs to the caller."""
        self._check(NEEDS_ROOM)
        self._real(path).mkdir(mode)
        self._give_to_caller(self._real(path))
        return 0

    def symlink(self, path: str, target: str) -> int:
        """Make `path` point to `target`."""
        self._check(NEEDS_ROOM)
        self._real(path).symlink_to(target)
        self._give_to_caller(self._real(path))
        return 0

    def link(self, path: str, existing: str) -> int:
        """Make `path` another name of `existing`."""
        self._check(NEEDS_ROOM)
        self._real(path).hardlink_to(self._real(existing))
        return 0

    # --- other changes ------------------------------------------------------------------------------------------------

    def truncate(self, path: str, length: int) -> int:
        """Cut or extend a file."""
        self._check(CHANGES)
        os.truncate(self._real(path), length)
        return 0

    def unlink(self, path: str) -> int:
        """Remove a name."""
        self._check(CHANGES)
        self._real(path).unlink()
        return 0

    def rmdir(self, path: str) -> int:
        """Remove an empty folder."""
        self._check(CHANGES)
        self._real(path).rmdir()
        return 0

    def rename(self, old: str, new: str) -> int:
        """Rename, replacing what is there."""
        self._check(CHANGES)
        self._real(old).replace(self._real(new))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """Change permissions."""
        self._check(CHANGES)
        self._real(path).chmod(mode)
        return 0

    def chown(self, path: str, user: int, group: int) -> int:
        """Change the owner."""
        self._check(CHANGES)
        os.chown(self._real(path), user, group, follow_symlinks=False)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        """Set times, in nanoseconds; None is now."""
        self._check(CHANGES)
        if times is None:
            os.utime(self._real(path), follow_symlinks=False)
        else:
            os.utime(self._real(path), ns=times, follow_symlinks=False)
        return 0

    def flush(self, path: str, info: OpenFile) -> int:
        """Any close(2); here a quota shows that was not seen by write."""
        del path, info
        self._check(READS)
        return 0

    def fsync(self, path: str, data_only: int, info: OpenFile) -> int:
        """Make a file's data safe."""
        del path
        self._check(READS)
        (os.fdatasync if data_only else os.fsync)(info.fh)
        return 0

    def fsyncdir(self, path: str, data_only: int, info: object) -> int:
        """Make a folder's names safe."""
        del data_only, info
        self._check(READS)
        descriptor = os.open(self._real(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return 0


def main(backing: str, mount_point: str, control: str) -> None:
    """Serve until unmounted or killed."""
    import mfusepy

    os.umask(0)  # the kernel has applied the caller's
    operations = Passthrough(Path(backing), Path(control))
    options = {"allow_other": True, "default_permissions": True, "attr_timeout": 0, "entry_timeout": 0}
    mfusepy.FUSE(operations, mount_point, raw_fi=True, foreground=True, fsname="ftslurm-lab", **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
