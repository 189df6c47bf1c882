"""Files that nobody asked for, in folders of a run that its supervisor and its agents read: hostile names and contents.

None of them is anything that ftslurm obeys: they are what a broken tool, or somebody with bad intentions, leaves there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ftslurm.paths import RunPaths

NAMES = (
    "plain",
    "two\nlines",
    "\x1b[31mred\x1b[0m",
    "<script>alert(1)</script>".replace("/", "\u2215"),
    "$(touch here); `touch here`",
    "\u202etxt.exe",
    "x" * 180,
)
CONTENTS = (b"", b'{"t":', b"[" * 5000, b'{"t": 1e999}', b"\0\xff\xfe", b"../../etc/passwd", b"9" * 5000)


def _folders(paths: RunPaths) -> list[Path]:
    return [paths.requests, paths.checkpoints, paths.logs, paths.lease, paths.root]


def scatter(paths: RunPaths, mark: str) -> str:
    """Leave them; `mark` is in every name. Raises OSError."""
    count = 0
    for folder in _folders(paths):
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, content in zip(NAMES, CONTENTS, strict=True):
            handle = os.open(folder / f"{mark} {name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.write(handle, content)
            finally:
                os.close(handle)
            count += 1
        (folder / f"{mark} link").symlink_to("/etc/passwd")
        count += 1
    return f"{count} files in {len(_folders(paths))} folders"


def collect(paths: RunPaths, mark: str) -> None:
    """Remove them. Raises OSError."""
    for folder in _folders(paths):
        for name in os.listdir(folder) if folder.is_dir() else ():
            if name.startswith(f"{mark} "):
                with suppress(FileNotFoundError):
                    (folder / name).unlink()
