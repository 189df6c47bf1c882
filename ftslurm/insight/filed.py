"""What was read of runs, in files: those of `remembered`, and the one that a run leaves in its folder when it ends.

A summary stands beside the stamp of the journal that it was made of, and counts while the journal still has this stamp:
the same files, sizes and times of change. So a summary that is older than its journal says nothing. A file that is
damaged, is not ours, or was written by other code than this counts for nothing, too.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from ftslurm import __version__
from ftslurm.errors import FtslurmError
from ftslurm.insight import codec, facts, glance, ills, reading, saves, summary
from ftslurm.insight.reading import Reading, Stamp
from ftslurm.insight.summary import Summary
from ftslurm.paths import PRIVATE_FILE, RunPaths

log = logging.getLogger(__name__)


def leave(paths: RunPaths) -> None:
    """Leave the summary of a run that has ended in its folder; whoever shows it need not read its journal."""
    try:
        # Before the journal is read: what is written meanwhile makes the summary count for nothing.
        stamp = reading.stamp(paths)
        found = Reading().catch_up(paths)
        if found.over:
            write(paths.summary, {"run": [stamp, codec.plain(found)]})
    except (OSError, FtslurmError) as error:
        log.warning("the run's summary is not kept, and its journal will be read instead: %s", error)


def left_by(paths: RunPaths) -> tuple[Stamp, Summary] | None:
    """What a run has left when it ended, and the stamp of the journal that it was made of."""
    record = loaded(paths.summary).get("run")
    return None if record is None else stamped(record, paths.summary)


def stamped(record: Any, path: Path) -> tuple[Stamp, Summary] | None:  # noqa: ANN401 - JSON
    """A summary and its stamp, from JSON of this file; None where it is none."""
    try:
        stamp, found = record
        return tuple((int(a), int(b), int(c)) for a, b, c in stamp), codec.build(Summary, found)
    except (ValueError, TypeError) as error:
        log.info("a summary in %s cannot be read: %s", path, error)
        return None


def write(path: Path, record: dict[str, Any]) -> None:
    """Replace such a file as a whole. Raises OSError."""
    part = path.with_name(f".{secrets.token_hex(6)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"rules": rules(), **record}, file, separators=(",", ":"))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def loaded(path: Path) -> dict[str, Any]:
    """Such a file, if it is ours and this code has written it; else nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            record = json.load(file) if about.st_uid == os.geteuid() and not about.st_mode & 0o022 else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.info("%s cannot be read, and counts for nothing: %s", path, error)
        return {}
    return record if isinstance(record, dict) and record.get("rules") == rules() else {}


@functools.cache
def rules() -> str:
    """What tells one version of the reading code from another, also while somebody works on it."""
    modules = (codec, facts, glance, ills, reading, saves, summary)
    stats = [Path(str(module.__file__)).stat() for module in modules]
    return f"{__version__} {' '.join(f'{about.st_size}.{about.st_mtime_ns:x}' for about in stats)}"
