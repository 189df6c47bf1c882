"""A checkpoint folder that somebody else has prepared: refused with one line, in bounded memory and time.

Everything is sealed again with right digests where the format allows it: what is refused is refused for what it says.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.reader import Generation, Want
from ftslurm.cli import exit_code
from ftslurm.core.manifest import CHUNK_BYTES, Commit, NodeManifest
from ftslurm.core.rankindex import RankIndex, aligned
from ftslurm.core.strictjson import decode, encode, fields_of
from ftslurm.errors import DataDamaged, FtslurmError
from tests.checkpoint.libraryworld import Library

OLD, NEW = "000000010-0000", "000000020-0000"
ROOM_BYTES = 1 << 30
LIMIT_S = 60
LONGEST_LINE = 3000
FILES = ("d/00000.bin", "d/00000.json", "m/rank-00000.json", "COMMIT.json")


@pytest.fixture
def library() -> Iterator[Library]:
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


# ------------------------------------------------------------------------------------------------------------- numbers

HERE = "@here@"
NO_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "true",
    '"1"',
    "[]",
    "{}",
    "[[]]",
    "1" * 400,
    "9" * 5000,
)
NO_COUNTS = (*NO_NUMBERS, "-1", "1.5", "1e3", "null", str(1 << 63))
RECORDS = {"commit": "COMMIT.json", "manifest": "m/rank-00000.json", "index": "d/00000.json"}
COUNTS = {
    "commit": ["world_size", "epoch", "parts/0/files", "parts/0/size", "parts/0/ranks/0"],
    "manifest": ["world_size", "chunk_bytes", "files/0/size"],
    "index": [
        *("world_size", "rank", "size", "chunk_bytes", "entries/0/offset", "entries/0/stored", "entries/0/length"),
        *("entries/0/shape/0", "entries/0/offsets/0", "entries/0/sizes/0"),
    ],
}
FLOATS = {
    "commit": ["at", "about/epoch", "about/metrics/loss"],
    "manifest": [],
    "index": ["about/epoch", "about/metrics/loss"],
}
OTHERS = {
    "commit": [
        "format",
        "run_id",
        "generation",
        "parts",
        "parts/0/node",
        "parts/0/manifest",
        "about/kind",
        "about/metrics",
    ],
    "manifest": ["format", "run_id", "generation", "node", "files", "files/0/chunks", "files/0/name"],
    "index": [
        *("format", "run_id", "generation", "host", "versions", "chunks", "entries", "objects", "about", "about/odd"),
        *("about/versions", "about/parent", "about/base", "entries/0/key", "entries/0/kind", "entries/0/dtype"),
        *("entries/0/shape", "entries/0/digest", "entries/0/encoding", "entries/0/base", "entries/0"),
    ],
}


def with_value(library: Library, kind: str, field: str, value: str) -> bytes:
    """One of our records with another value, as JSON text, in one place."""
    record = json.loads((library.paths(NEW).root / RECORDS[kind]).read_bytes())
    inner = record["commit"] if kind == "commit" else record
    if "about" in inner:
        inner["about"].update(metrics={"loss": 1.0})
    *way, last = field.split("/")
    for step in way:
        inner = inner[int(step) if isinstance(inner, list) else step]
    inner[int(last) if isinstance(inner, list) else last] = HERE
    return json.dumps(record).replace(f'"{HERE}"', value).encode()


def refusal(kind: str, data: bytes) -> str:
    """Why a reader does not take this record; "" where it does."""
    try:
        if kind == "commit":
            Commit.from_json(fields_of(decode(data, "COMMIT.json"), ("commit", "digest"), "COMMIT.json")["commit"])
        else:
            (NodeManifest if kind == "manifest" else RankIndex).from_bytes(data)
    except DataDamaged as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", RECORDS)
def test_no_value_in_any_place_is_more_than_refused(library: Library, kind: str) -> None:
    """Every place takes every wrong kind of value; the answer is DataDamaged in one short line."""
    places = [(field, NO_COUNTS) for field in COUNTS[kind]] + [(field, NO_NUMBERS) for field in FLOATS[kind]]
    places += [(field, (*NO_COUNTS, "0.5", '"x"', '"' + "x" * 5000 + '"')) for field in OTHERS[kind]]
    accepted = []
    for field, values in places:
        for value in values:
            told = refusal(kind, with_value(library, kind, field, value))
            assert len(told) < LONGEST_LINE
            assert "\n" not in told
            accepted += [] if told else [(field, value[:20])]
    harmless = {"about/odd", "about/versions", "about/metrics", "versions", "objects"}  # an empty object
    texts = {"run_id", "host", "node", "parts/0/node", "about/parent", "entries/0/key", "files/0/name", "about/base"}
    empty = {(each, "{}") for each in harmless} | {("files", "[]"), ("entries", "[]")}
    strange = [each for each in accepted if each not in empty]
    assert not [each for each in strange if each[0] not in texts or not each[1].startswith('"')]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(
    ("kind", "field"), [("commit", "at"), ("commit", "world_size"), ("index", "size"), ("index", "about/epoch")]
)
def test_a_number_that_is_none_is_refused(library: Library, kind: str, field: str, value: str) -> None:
    """The whole way, from the file to the restart and the command."""
    data = with_value(library, kind, field, value)
    if kind == "commit":
        library.paths(NEW).commit.write_bytes(data)
    else:
        put_index(library, data)
    assert_refused(library)


@pytest.mark.parametrize("value", ["NaN", "1e400", "-1e400", "Infinity"])
def test_a_value_of_the_state_that_is_no_number_is_refused(library: Library, value: str) -> None:
    """It would go into the program as it is."""
    put_index(library, with_value(library, "index", "objects/rate", value))
    assert_refused(library)


@pytest.mark.parametrize("world", [1, 3, 1000, 9_999_999, 10**9, 10**30])
def test_a_world_that_is_not_there_is_refused(library: Library, world: int) -> None:
    """However large: nobody counts to it."""
    body = json.loads(library.paths(NEW).commit.read_bytes())["commit"]
    for rank, part in enumerate(body["parts"]):
        for path in (
            library.paths(NEW).data / f"{rank:05d}.json",
            library.paths(NEW).manifests / f"{part['node']}.json",
        ):
            path.write_bytes(encode(json.loads(path.read_bytes()) | {"world_size": world}))
    body["world_size"] = world
    seal_commit(library, body)
    seal_again(library)
    assert_refused(library)


@pytest.mark.parametrize("size", [1 << 40, 1 << 50, (1 << 60) - 4096])
def test_a_declared_size_takes_no_memory(library: Library, size: int) -> None:
    """A file that is as large as declared, because it is all hole, with an entry of that size in it."""
    index = index_of(library)
    entry = index["entries"][-1]
    entry.update(shape=[size], offsets=[0], sizes=[size], dtype="uint8", kind="rank", stored=size, length=size)
    index["size"] = entry["offset"] + aligned(size)
    with contextlib.suppress(OSError):
        os.truncate(library.paths(NEW).data / "00000.bin", index["size"])
    index["chunks"] = "0" * (32 * min(-(-index["size"] // CHUNK_BYTES), 1 << 20))
    (library.paths(NEW).data / "00000.json").write_bytes(encode(index))
    body = json.loads(library.paths(NEW).commit.read_bytes())["commit"]
    record = json.loads((library.paths(NEW).manifests / "rank-00000.json").read_bytes())
    data = encode(index)
    record["files"][0].update(size=index["size"], chunks=index["chunks"])
    record["files"][1].update(size=len(data), chunks="".join(digests_of(memoryview(data))))
    seal_manifest(library, body["parts"][0], record)
    seal_commit(library, body)
    assert confined(lambda: restart(library), library.root).endswith(f"\n{OLD}")


# ---------------------------------------------------------------------------------------------------------------- JSON

BOMB_BYTES = 100_000_000
BOMBS: dict[str, Callable[[int], bytes]] = {
    "empty lists": lambda size: b"[" + b"[]," * (size // 3 - 2) + b"[]]",
    "empty objects": lambda size: b"[" + b"{}," * (size // 3 - 2) + b"{}]",
    "numbers": lambda size: b"[" + b"7," * (size // 2 - 2) + b"7]",
    "floats": lambda size: b"[" + b"1e1," * (size // 4 - 2) + b"1e1]",
    "keys": lambda size: b"{" + b",".join(b'"%d":0' % number for number in range(size // 12)) + b"}",
    "depth": lambda size: b"[" * size,
    "depth of objects": lambda size: b'{"a":' * (size // 5),
    "a text": lambda size: b'"' + b"x" * (size - 2) + b'"',
    "a number": lambda size: b"9" * size,
    "a fraction": lambda size: b"0." + b"3" * (size - 2),
    "no UTF-8": lambda size: b'"' + b"\xff" * (size - 2) + b'"',
    "wide characters": lambda size: ("\U0001f600" + "x" * (size - 6)).encode().join([b'"', b'"']),
    "white space": lambda size: b" " * size,
    "nothing": lambda _: b"",
    "a key twice": lambda _: b'{"format":1,"format":2}',
    "zeros": bytes,
}


@pytest.mark.parametrize("name", BOMBS)
def test_megabytes_of_json_are_refused(library: Library, name: str) -> None:
    """As a rank's index with right digests, and 10 MB of it as COMMIT.json."""
    bomb = BOMBS[name](BOMB_BYTES if name in {"empty lists", "a text"} else BOMB_BYTES // 5)
    put_index(library, bomb)
    assert confined(lambda: restart(library), library.root).endswith(f"\n{OLD}")
    library.paths(NEW).commit.write_bytes(bomb[: BOMB_BYTES // 10])
    assert_refused(library)


def test_a_bomb_inside_a_record_is_refused(library: Library) -> None:
    """In the one place that takes any JSON: the state's own values."""
    bomb = BOMBS["empty lists"](BOMB_BYTES // 2).decode()
    put_index(library, with_value(library, "index", "objects/rate", bomb))
    assert_refused(library)


def test_every_key_twice_is_refused(library: Library) -> None:
    """A record whose second value would hide the first."""
    data = (library.paths(NEW).data / "00000.json").read_bytes()
    put_index(library, data.replace(b'"rank":0', b'"rank":0,"rank":0', 1))
    assert "repeated" in assert_refused(library)


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
