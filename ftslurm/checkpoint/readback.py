"""Reads a sample of what was committed on shared storage again, past this host's cache.

What was written and fsynced may still be lost or changed where it lies. A few chunks, drawn by chance, cost nothing
and find what is systematic; all of a generation is read when many others build upon it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ftslurm.checkpoint import disk
from ftslurm.checkpoint.digest import Pace, digest_bytes, quiet
from ftslurm.checkpoint.inplace import source_of
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.store import read_files, verify
from ftslurm.core.manifest import CHUNK_BYTES, Commit, FileEntry
from ftslurm.errors import DataDamaged, StorageError

SAMPLE = 16


def sample(root: Path, commit: Commit, count: int = SAMPLE) -> str:
    """Read up to `count` chunks of a committed generation; return what is wrong, "" where nothing was found.

    Raises:
        StorageError: it cannot be read now.
    """
    folder = StorePaths(root).generation(commit.generation)
    try:
        files = [entry for entry in read_files(folder.root, commit) if entry.size]
        source = source_of(folder)
        for _ in range(count if files else 0):
            entry = files[secrets.randbelow(len(files))]
            wrong = _look(source, entry, secrets.randbelow(entry.chunk_count))
            if wrong:
                return wrong
    except DataDamaged as error:
        return str(error)
    except OSError as error:
        raise StorageError(f"{folder.root} cannot be read again: {error.strerror}") from error
    return ""


def _look(source: tuple[Path, str], entry: FileEntry, chunk: int) -> str:
    with disk.opened(source[0], f"{source[1]}{entry.name}") as descriptor:
        start = chunk * CHUNK_BYTES
        length = min(CHUNK_BYTES, entry.size - start)
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)
        found = digest_bytes(os.pread(descriptor, length, start))
    wanted = entry.chunk(chunk)
    return "" if found == wanted else f"{entry.name}: chunk {chunk}: digest {found}, should be {wanted}"


def scrub(root: Path, generation: str, pace: Pace = quiet) -> str:
    """Read all of a committed generation; return what is wrong, "" for nothing.

    Raises:
        StorageError: it cannot be read now.
    """
    try:
        problems = verify(root, generation, pace).problems
    except DataDamaged as error:
        return str(error)
    return "; ".join(map(str, problems[:4]))
