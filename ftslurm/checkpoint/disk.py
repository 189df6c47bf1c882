"""The few ways in which the store touches a disk: open inside a folder, write a small file safely, make names durable.

Rules, from what NFS and crashes do (close-to-open consistency: nfs(5); "All File Systems Are Not Created Equal",
OSDI 2014):

- A file is opened component by component below its folder, never through a symbolic link, and must be a regular file.
- A small file appears whole or not at all: written to another name, flushed, fsynced, closed (EDQUOT and EIO arrive
  there), renamed, and the folder fsynced.
- A name is durable only when its folder was fsynced.

Foreign errors stay OSError here; callers know whether they mean damage or bad weather.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

from ftslurm.checkpoint.layout import PRIVATE_FOLDER
from ftslurm.errors import DataDamaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRIVATE_FILE = 0o600
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})
_NOT_PLAIN = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EMLINK})


@contextlib.contextmanager
def folder_of(root: Path, name: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """The open folder that holds `name` below `root`, and the last part of the name.

    With `create`, missing folders are made; `fsync_way` makes them durable.

    Raises:
        DataDamaged: a part of the way is a symbolic link or no folder.
        OSError: as the system says.
    """
    *folders, last = name.split("/")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, PRIVATE_FOLDER, dir_fd=at)
            below = _open_plain(folder, _FOLDER, at, name)
            os.close(at)
            at = below
        yield at, last
    finally:
        os.close(at)


@contextlib.contextmanager
def opened(root: Path, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor of the regular file `name` below `root`.

    Raises:
        DataDamaged: it is a symbolic link, a folder, a device or the like, or behind a link.
        OSError: as the system says; FileNotFoundError where there is none.
    """
    with folder_of(root, name) as (at, last):
        descriptor = _open_plain(last, flags | _FILE, at, name)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataDamaged(f"{root / name} is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _open_plain(last: str, flags: int, at: int, name: str) -> int:
    try:
        return os.open(last, flags, PRIVATE_FILE, dir_fd=at)
    except OSError as error:
        if error.errno in _NOT_PLAIN:
            raise DataDamaged(f"{name!r}: {last!r} is a link or not of the right kind ({error.strerror})") from error
        raise


def is_there(root: Path, name: str) -> bool:
    """Whether there is anything of this name below `root`; raises as `folder_of`, but not for a missing folder."""
    try:
        with folder_of(root, name) as (at, last):
            os.stat(last, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def size_of(descriptor: int) -> int:
    """Bytes of an open file."""
    return os.fstat(descriptor).st_size


def plain_size(root: Path, name: str) -> int:
    """Bytes of the regular file `name` below `root`; raises as `opened`. It is opened, because stat may be cached."""
    with opened(root, name) as descriptor:
        return os.fstat(descriptor).st_size


def read_small(root: Path, name: str, limit_bytes: int) -> bytes:
    """All bytes of a file that may have at most `limit_bytes`; raises as `opened`."""
    with opened(root, name) as descriptor:
        pieces: list[bytes] = []
        left = limit_bytes + 1
        while left > 0 and (piece := os.read(descriptor, min(left, 1 << 20))):
            pieces.append(piece)
            left -= len(piece)
    if left <= 0:
        raise DataDamaged(f"{root / name} has more than {limit_bytes} bytes")
    return b"".join(pieces)


def write_small(path: Path, data: bytes) -> None:
    """Let `path` appear whole or not at all, and stay there after a power cut. Replaces an older file of this name."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte: write(2) may write less than it was given."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def pwrite_all(descriptor: int, data: memoryview, offset: int) -> None:
    """As `write_all`, at a place of the file."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def link_over(source: Path, target: Path, name: str) -> bool:
    """Link the file `name` of `source` into `target`, replacing what is there; False where that cannot be.

    Raises:
        DataDamaged: a link or no folder on the way.
        OSError: as the system says.
    """
    with folder_of(source, name) as (from_folder, last), folder_of(target, name, create=True) as (to_folder, _):
        temporary = f"{os.getpid()}-{threading.get_ident()}.link.part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=to_folder)
        try:
            os.link(last, temporary, src_dir_fd=from_folder, dst_dir_fd=to_folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in _CANNOT_LINK:
                return False
            raise
        os.rename(temporary, last, src_dir_fd=to_folder, dst_dir_fd=to_folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=to_folder)  # rename(2) does nothing when both are names of one file
    return True


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, each of them durable.

    The name is made durable also where the folder exists: whoever made it may have died before doing so.
    """
    try:
        path.mkdir(PRIVATE_FOLDER)
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(PRIVATE_FOLDER, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise
    fsync_folder(path.parent)


def fsync_way(root: Path, name: str) -> None:
    """Make the name of the file `name`, and those of the folders on the way to it from `root`, durable."""
    depth = name.count("/")
    for count in range(depth + 1):
        with folder_of(root, name.rsplit("/", count)[0]) as (folder, _):
            fsync_names(folder)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync_names(descriptor)
    finally:
        os.close(descriptor)


def fsync_names(descriptor: int) -> None:
    """As `fsync_folder`, for an open folder. Some file systems cannot (EINVAL); they have nothing more to offer."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise


def entries_of(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where the folder does not exist."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
