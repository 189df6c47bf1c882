"""Secrets and private folders: what a run keeps where other users of the machine can see that it exists.

Never follow a link, never trust a folder that somebody else could exchange, never overwrite: open(2) O_NOFOLLOW and
O_EXCL, and the sticky bit in chmod(2).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from ftslurm.errors import CannotCreate, Refused, ServiceUnavailable
from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER
from ftslurm.runtime.wire import read_private

KEY_BYTES = 32


def new_key(path: Path) -> bytes:
    """Create a run's key, which nobody else can read. Raises CannotCreate: it exists already, or cannot be written."""
    key = secrets.token_bytes(KEY_BYTES)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise CannotCreate(f"the run's key {path} cannot be created: {error.strerror}") from error
    try:
        os.fchmod(fd, PRIVATE_FILE)
        os.write(fd, key)
        os.fsync(fd)
    except OSError as error:
        path.unlink()
        raise CannotCreate(f"the run's key {path} cannot be written: {error.strerror}") from error
    finally:
        os.close(fd)
    return key


def read_key(path: Path) -> bytes:
    """Return a run's key.

    Raises:
        ServiceUnavailable: there is none, or it cannot be read now.
        Refused: others could have read or written it, or it is no key.
    """
    try:
        key = read_private(str(path))
    except ValueError as error:
        raise Refused(str(error), hint="it must be a plain file of yours with mode 0600") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"{path} is a symbolic link") from error
        raise ServiceUnavailable(f"the run's key {path} cannot be read: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise Refused(f"{path} is no key: {len(key)} bytes")
    return key


def private_folder(path: Path) -> Path:
    """Create a folder that only we can enter, with its parents, or make sure that an existing one is so.

    A folder above it that everybody can write to must be root's or ours and sticky (as /tmp is): in any other one the
    folder could be exchanged under our feet. Returns `path`.

    Raises:
        Refused: somebody else's, a symbolic link, or open to others.
        CannotCreate: the file system does not let us.
    """
    above = path.parent.resolve()
    for folder in (*reversed(above.parents), above):
        with suppress(FileExistsError):
            _mkdir(folder)
        about = folder.stat()
        if about.st_mode & stat.S_IWOTH and not (about.st_mode & stat.S_ISVTX and about.st_uid in (0, os.geteuid())):
            raise Refused(f"{folder} can be changed by everybody: nothing private can lie in it")
    with suppress(FileExistsError):
        _mkdir(path)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        hint = f"it must be a folder of yours with mode 0700: move it away, or `chmod 700 {path}` if it is yours"
        raise Refused(f"{path} is not private", hint=hint)
    return path


def _mkdir(folder: Path) -> None:
    try:
        folder.mkdir(mode=PRIVATE_FOLDER)
    except FileExistsError:
        raise
    except OSError as error:
        raise CannotCreate(f"the folder {folder} cannot be created: {error.strerror}") from error
