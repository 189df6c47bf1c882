"""A checkpoint that somebody else has prepared: forging it, and what a restart and the command make of it, confined."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.cli import exit_code
from ftslurm.core.strictjson import encode
from ftslurm.errors import FtslurmError
from tests.checkpoint.libraryworld import Library

OLD, NEW = "000000010-0000", "000000020-0000"
ROOM_BYTES = 1 << 30
LIMIT_S = 60
LONGEST_LINE = 3000


@contextlib.contextmanager
def small_library() -> Iterator[Library]:
    """Steps 10 and 20, small."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = Library(Path(folder) / "w").prepare()
        assert (made.save(10), made.save(20)) == (OLD, NEW)
        yield made


def confined(work: Callable[[], object], place: Path) -> str:
    """What `work` prints, in a child that may take ROOM_BYTES more memory than it has, and LIMIT_S seconds."""
    out = place / "output"
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + ROOM_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.alarm(LIMIT_S)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                try:
                    print(work(), end="")
                except BaseException as error:  # noqa: BLE001 - the parent has to see it
                    print(f"escaped: {type(error).__name__}: {error}", end="")
            out.write_text(printed.getvalue(), "utf-8", "backslashreplace")
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}"
    return out.read_text()


def restart(library: Library) -> str:
    """What a restart gets, and why not the newest; UsageError is for what fits no program."""
    told = []
    for name in (NEW, OLD):
        try:
            library.check(library.paths(name))
            told.append(name)
            break
        except FtslurmError as error:
            told.append(f"{type(error).__name__}: {error}")
    return "\n".join(told)


def verify(library: Library) -> str:
    """The command's output, and its exit code."""
    code = exit_code(["checkpoint", "verify", str(library.store)])
    return f"exit code {code}"


def assert_refused(library: Library) -> str:
    """By a restart and by the command, with one line each, and the old one is there; returns the restart's line."""
    lines = confined(lambda: restart(library), library.root).split("\n")
    assert len(lines) == 2, lines
    assert lines[0].startswith(("DataDamaged: ", "ChunkDamaged: ", "UsageError: "))
    assert lines[1] == OLD
    shown = confined(lambda: verify(library), library.root).split("\n")
    assert shown[0].startswith(f"{OLD}  OK")
    assert shown[1].startswith(f"{NEW}  DAMAGED")
    assert shown[-1] == "exit code 65"
    assert all(line.startswith("  ") for line in shown[2:-1])
    assert len(shown) >= 4
    assert max(map(len, [*lines, *shown])) < LONGEST_LINE
    return lines[0]


def seal_again(library: Library) -> None:
    """Let manifests agree with files and the commit with manifests, whatever they say now."""
    paths = library.paths(NEW)
    commit = json.loads(paths.commit.read_bytes())["commit"]
    for part in commit["parts"]:
        path = paths.manifests / f"{part['node']}.json"
        record = json.loads(path.read_bytes())
        for entry in record["files"]:
            file = paths.data / entry["name"]
            if file.is_file():
                data = file.read_bytes()
                entry.update(size=len(data), chunks="".join(digests_of(memoryview(data))))
        seal_manifest(library, part, record)
    seal_commit(library, commit)


def seal_manifest(library: Library, part: dict, record: dict) -> None:
    """Write a manifest, and its digest into its part of the commit."""
    path = library.paths(NEW).manifests / f"{part['node']}.json"
    path.write_bytes(encode(record))
    part.update(manifest=digest_bytes(path.read_bytes()), files=len(record["files"]))
    part.update(size=sum(entry["size"] for entry in record["files"]))


def seal_commit(library: Library, body: dict) -> None:
    """Write a commit with a seal that fits."""
    data = encode({"commit": body, "digest": digest_bytes(encode(body))})
    library.paths(NEW).commit.write_bytes(data)


def put_index(library: Library, data: bytes) -> None:
    """Write these bytes as the index of rank 0, and seal them."""
    (library.paths(NEW).data / "00000.json").write_bytes(data)
    seal_again(library)


def index_of(library: Library) -> dict[str, Any]:
    """That of rank 0."""
    return json.loads((library.paths(NEW).data / "00000.json").read_bytes())
