"""Records of a checkpoint that hold whatever JSON can say: refused with one line, in bounded memory and time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator

import pytest

from ftslurm.checkpoint.digest import digests_of
from ftslurm.core.manifest import CHUNK_BYTES, Commit, NodeManifest
from ftslurm.core.rankindex import RankIndex, aligned
from ftslurm.core.strictjson import decode, encode, fields_of
from ftslurm.errors import DataDamaged
from tests.checkpoint.hostile import (
    LONGEST_LINE,
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
)
from tests.checkpoint.libraryworld import Library
from tests.lab.longer import PATIENT


@pytest.fixture
def library() -> Iterator[Library]:
    """Steps 10 and 20, small."""
    with small_library() as made:
        yield made


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

BOMB_BYTES = 100_000_000 if PATIENT else 30_000_000
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
