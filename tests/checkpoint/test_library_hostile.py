"""A checkpoint folder that somebody else has prepared: refused with one line, in bounded memory and time.

Everything is sealed again with right digests where the format allows it: what is refused is refused for what it says.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ftslurm.checkpoint.digest import digests_of
from ftslurm.checkpoint.reader import Generation, Want
from ftslurm.core.rankindex import aligned
from ftslurm.core.strictjson import encode
from ftslurm.errors import FtslurmError
from tests.checkpoint.hostile import (
    NEW,
    OLD,
    assert_refused,
    confined,
    index_of,
    put_index,
    restart,
    seal_again,
    seal_commit,
    seal_manifest,
    small_library,
    verify,
)
from tests.checkpoint.libraryworld import Library

FILES = ("d/00000.bin", "d/00000.json", "m/rank-00000.json", "COMMIT.json")


@pytest.fixture
def library() -> Iterator[Library]:
    """Steps 10 and 20, small."""
    with small_library() as made:
        yield made


# -------------------------------------------------------------------------------------------- what lies in the folder


@pytest.mark.parametrize("name", [*FILES, "d", "m"])
def test_a_link_is_not_followed(library: Library, name: str) -> None:
    """A symbolic link on the way to a file, even to the right bytes, might lead anywhere."""
    path = library.paths(NEW).root / name
    path.rename(library.root / "elsewhere")
    path.symlink_to(library.root / "elsewhere")
    assert_refused(library)


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/proc/self/mem", "nowhere"])
@pytest.mark.parametrize("name", FILES)
def test_a_link_to_another_thing_is_not_followed(library: Library, name: str, target: str) -> None:
    """Nor one out of the folder, to an endless device, or to nothing."""
    path = library.paths(NEW).root / name
    path.unlink()
    path.symlink_to(target)
    assert_refused(library)


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_not_waited_for(library: Library, name: str) -> None:
    """Opening it would wait for ever."""
    path = library.paths(NEW).root / name
    path.unlink()
    os.mkfifo(path)
    assert_refused(library)


@pytest.mark.parametrize("name", FILES)
def test_a_device_is_not_read(library: Library, name: str) -> None:
    """/dev/zero under a name of ours."""
    path = library.paths(NEW).root / name
    path.unlink()
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can make devices")
    assert_refused(library)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_never_loaded(library: Library, name: str) -> None:
    """Under each name of ours; nothing happens."""
    path = library.paths(NEW).root / name
    size = path.stat().st_size
    path.write_bytes(pickle.dumps(Payload(library.root / "owned")).ljust(size, b"\0"))
    if name == "d/00000.json":
        seal_again(library)
    assert_refused(library)
    assert not (library.root / "owned").exists()


# ------------------------------------------------------------------------------------------------------ names as paths


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../../x", "a/../../b", "..", ".", "", "x\0y", "a\nb", "x/", "\ud800", "a" * 5000, 5, None, []],
)
def test_a_file_name_that_leaves_the_folder_is_refused(library: Library, name: object) -> None:
    """In a manifest that is sealed well."""
    body = json.loads(library.paths(NEW).commit.read_bytes())["commit"]
    record = json.loads((library.paths(NEW).manifests / "rank-00000.json").read_bytes())
    record["files"][0]["name"] = name
    seal_manifest(library, body["parts"][0], record)
    seal_commit(library, body)
    assert_refused(library)


@pytest.mark.parametrize("node", ["../../x", "/etc/passwd", "a/b", "", ".", "..", "x\0", "x\ny", "n" * 5000, 3, None])
def test_a_node_name_that_leaves_the_folder_is_refused(library: Library, node: object) -> None:
    """Manifests are found by it."""
    body = json.loads(library.paths(NEW).commit.read_bytes())["commit"]
    body["parts"][0]["node"] = node
    seal_commit(library, body)
    assert_refused(library)


@pytest.mark.parametrize(
    "base", ["../../etc", "/etc", "000000010-0000/../..", ".", "x" * 5000, 7, None, [], "000000001-0000"]
)
def test_a_base_that_is_no_generation_is_refused(library: Library, base: object) -> None:
    """References are followed by it; one that does not exist is refused, too."""
    index = index_of(library)
    index["entries"][-1].update(base=base, stored=0, offset=0)
    index["size"] = index["entries"][-1]["offset"]
    put_index(library, encode(index))
    assert_refused(library)


# ---------------------------------------------------------------------------------------------------------------- zstd


def frame(claimed: int | None, blocks: int) -> bytes:
    """A frame of zstd that unpacks to `blocks` times 128 KiB of zeros, and says what it likes (RFC 8878, 3.1.1)."""
    descriptor, size = (0, b"") if claimed is None else (0xC0, claimed.to_bytes(8, "little"))
    head = b"\x28\xb5\x2f\xfd" + bytes([descriptor, 7 << 3]) + size
    run = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (1 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return head + run * blocks + last


def put_frame(library: Library, data: bytes, length: int | None) -> None:
    """Make the last entry a compressed one, of one dimension where it gets another length; and seal everything."""
    index = index_of(library)
    entry = index["entries"][-1]
    entry.update(encoding="zstd", stored=len(data))
    if length is not None:
        entry.update(kind="rank", dtype="uint8", shape=[length], offsets=[0], sizes=[length], length=length)
    file = library.paths(NEW).data / "00000.bin"
    content = file.read_bytes()[: entry["offset"]] + data.ljust(aligned(len(data)), b"\0")
    file.write_bytes(content)
    index.update(size=len(content), chunks="".join(digests_of(memoryview(content))))
    put_index(library, encode(index))


@pytest.mark.parametrize("blocks", [1, 500])
@pytest.mark.parametrize("claimed", ["right", 1 << 40, None])
def test_a_compressed_entry_that_unpacks_to_more_is_refused(
    library: Library, blocks: int, claimed: int | str | None
) -> None:
    """The frame's own word decides nothing."""
    length = index_of(library)["entries"][-1]["length"]
    put_frame(library, frame(length if claimed == "right" else claimed, blocks), None)
    told = confined(lambda: restart(library), library.root)
    assert told.startswith("DataDamaged")
    assert told.endswith(f"\n{OLD}")


def test_a_bomb_that_says_its_size_takes_no_more_memory_than_there_is(library: Library) -> None:
    """The index agrees that 100 KB unpack to 4 GB, and somebody wants ten bytes of them."""
    length = (1 << 32) + 1
    put_frame(library, frame(length, 1 << 15), length)

    def read() -> str:
        into = np.zeros(10, np.uint8)
        with Generation.open(library.paths(NEW)) as saved:
            try:
                saved.read([Want(key="spread", offsets=(0,), sizes=(10,), into=into, rank=0)])
            except FtslurmError as error:
                return f"{type(error).__name__}: {error}"
        return "read"

    # The other rank's `spread` makes it no whole: take it out.
    path = library.paths(NEW).data / "00001.json"
    other = json.loads(path.read_bytes())
    other["entries"][-1].update(kind="rank", shape=other["entries"][-1]["sizes"], offsets=[0, 0])
    path.write_bytes(encode(other))
    seal_again(library)
    told = confined(read, library.root)
    assert told.startswith(("StorageError: ", "DataDamaged: "))


def test_the_store_itself_can_be_hostile(library: Library) -> None:
    """A file or a loop of links where the generations should be: one line, and no traceback."""
    for make in (lambda path: path.write_bytes(b"x"), lambda path: path.symlink_to(path.name)):
        shutil.move(library.store / "gen", library.root / "away")
        make(library.store / "gen")
        shown = confined(lambda: verify(library), library.root)
        assert "exit code 74" in shown
        assert len(shown.splitlines()) <= 3
        (library.store / "gen").unlink()
        shutil.move(library.root / "away", library.store / "gen")
    assert library.newest() == (NEW, [])
