"""What one rank has written of a generation: a data file of raw bytes, and this index of it.

The data file holds the rank's *entries*, one for each local piece of a tensor: raw bytes in C order, little endian,
each from a border of 4 KiB (so that O_DIRECT can write and read them), in the order of (key, place), padded with zeros
to the next border. An entry whose bytes have not changed since a *base* generation is a reference: it names the place
in the base's data file of the same rank. The index is written last; without it the data file means nothing.

Whatever comes from a file is distrusted: `from_bytes` refuses what this module cannot have written, so that a reader
may add up places and sizes without looking again. `ftslurm.core.wholeness` says whether the indexes of all ranks make
a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from ftslurm.core.about import About
from ftslurm.core.manifest import CHUNK_BYTES, DIGEST, MANIFEST_LIMIT_BYTES, FileEntry, generation_of, node_name
from ftslurm.core.strictjson import (
    decode,
    encode,
    expect,
    fields_of,
    list_of,
    matching,
    plain_name,
    plain_text,
    refuse,
    shortened,
    whole,
)
from ftslurm.core.tiling import Box
from ftslurm.errors import UsageError

INDEX_FORMAT = "ftslurm-rank-index/1"
INDEX_LIMIT_BYTES = MANIFEST_LIMIT_BYTES
ALIGN_BYTES = 4096

DTYPES: Mapping[str, int] = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of an element, by the names that NumPy and PyTorch share."""

_Member = TypeVar("_Member", bound=StrEnum)
_MAX_SIZE = 1 << 60
_MAX_COUNT = 10**7
_MAX_DIMENSIONS = 64
_MAX_KEY = 1000
_MAX_DEPTH = 100
_ENTRY_FIELDS = (
    *("key", "kind", "dtype", "shape", "offsets", "sizes", "offset", "stored", "length", "digest", "encoding", "base"),
)
_INDEX_FIELDS = (
    *("format", "run_id", "generation", "world_size", "rank", "host", "versions", "size", "chunk_bytes", "chunks"),
    *("entries", "objects", "about"),
)


class Kind(StrEnum):
    """How the pieces of a key make the whole."""

    SHARDED = "sharded"
    """Every element lies in exactly one rank's piece."""
    REPLICATED = "replicated"
    """All ranks have the same; one of them has written it."""
    RANK = "rank"
    """Each rank's own; there is no whole, so it can be restored at an equal world size only."""


class Encoding(StrEnum):
    """How the bytes are stored."""

    RAW = "raw"
    ZSTD = "zstd"
    XOR_ZSTD = "xor+zstd"


def aligned(count: int) -> int:
    """`count` bytes, rounded up to the next border."""
    return -(-count // ALIGN_BYTES) * ALIGN_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One rank's piece of a tensor.

    `shape` is that of the whole tensor; `offsets` and `sizes` are the piece's box in it. `stored` bytes lie at `offset`
    of the data file; `length` and the digest (xxh3-128) are those of the raw bytes. With a `base` and nothing stored
    it is a reference: `offset` is the place in the base's data file.
    """

    key: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    offset: int
    stored: int
    length: int
    digest: str
    encoding: Encoding = Encoding.RAW
    base: str = ""

    @property
    def box(self) -> Box:
        """Where the piece lies in the tensor."""
        return Box(self.offsets, self.sizes)

    @property
    def is_reference(self) -> bool:
        """Whether the bytes lie in another generation."""
        return bool(self.base) and not self.stored

    def to_json(self) -> dict[str, Any]:
        """As it stands in an index."""
        return {name: _listed(getattr(self, name)) for name in _ENTRY_FIELDS}

    @classmethod
    def from_json(cls, record: object) -> Entry:
        """Raises DataDamaged for anything that this module cannot have written."""
        fields = fields_of(record, _ENTRY_FIELDS, "entry")
        key = plain_text(fields["key"], "key of an entry", _MAX_KEY)
        if not isinstance(fields["dtype"], str) or fields["dtype"] not in DTYPES:
            refuse(f"{key!r} is of the unknown type {shortened(fields['dtype'])}")
        entry = cls(
            key=key,
            kind=_member(Kind, fields["kind"], f"kind of {key!r}"),
            dtype=fields["dtype"],
            shape=_numbers(fields["shape"], f"shape of {key!r}"),
            offsets=_numbers(fields["offsets"], f"offsets of {key!r}"),
            sizes=_numbers(fields["sizes"], f"sizes of {key!r}"),
            offset=whole(fields["offset"], f"offset of {key!r}", _MAX_SIZE),
            stored=whole(fields["stored"], f"stored bytes of {key!r}", _MAX_SIZE),
            length=whole(fields["length"], f"length of {key!r}", _MAX_SIZE),
            digest=matching(fields["digest"], DIGEST, f"digest of {key!r}"),
            encoding=_member(Encoding, fields["encoding"], f"encoding of {key!r}"),
            base="" if fields["base"] == "" else generation_of(fields["base"]),
        )
        _check_entry(entry)
        return entry


@dataclass(frozen=True, slots=True, kw_only=True)
class RankIndex:
    """What one rank has written of a generation. `size` and `chunks` are those of the data file (`FileEntry`).

    `objects` are the values of the state that are no tensors: JSON.
    """

    run_id: str
    generation: str
    world_size: int
    rank: int
    host: str
    size: int
    chunks: str
    entries: tuple[Entry, ...]
    about: About = field(default_factory=About)
    objects: Mapping[str, Any] = field(default_factory=dict, hash=False)
    versions: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def data_name(self) -> str:
        """The data file's name, relative to the generation's data folder."""
        return data_name(self.rank)

    @property
    def index_name(self) -> str:
        """This index' name there."""
        return index_name(self.rank)

    @property
    def data_file(self) -> FileEntry:
        """The data file, as a manifest lists it."""
        return FileEntry(name=self.data_name, size=self.size, chunks=self.chunks, rank=self.rank)

    def references(self) -> frozenset[str]:
        """The generations that must stay for this one to be whole."""
        return frozenset(entry.base for entry in self.entries if entry.base)

    def to_bytes(self) -> bytes:
        """The one spelling of this index.

        Raises:
            UsageError: an object of the state that JSON cannot say exactly.
        """
        check_objects(self.objects)
        try:
            return encode(self._record())
        except ValueError as error:
            raise UsageError(f"the state of rank {self.rank} cannot be written: {error}") from error

    def _record(self) -> dict[str, Any]:
        return {
            "format": INDEX_FORMAT,
            "run_id": self.run_id,
            "generation": self.generation,
            "world_size": self.world_size,
            "rank": self.rank,
            "host": self.host,
            "versions": dict(self.versions),
            "size": self.size,
            "chunk_bytes": CHUNK_BYTES,
            "chunks": self.chunks,
            "entries": [entry.to_json() for entry in self.entries],
            "objects": dict(self.objects),
            "about": self.about.to_json(),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> RankIndex:
        """Raises DataDamaged for anything that this module cannot have written."""
        fields = fields_of(decode(data, "rank index"), _INDEX_FIELDS, "rank index")
        expect(fields["format"], INDEX_FORMAT, "format of the rank index")
        expect(fields["chunk_bytes"], CHUNK_BYTES, "chunk size of the rank index")
        world_size = whole(fields["world_size"], "world_size", _MAX_COUNT)
        rank = whole(fields["rank"], f"rank in a world of {world_size}", world_size)
        file = FileEntry.from_json(
            {"name": data_name(rank), "size": fields["size"], "rank": rank, "chunks": fields["chunks"]}
        )
        index = cls(
            run_id=plain_name(fields["run_id"], "run_id"),
            generation=generation_of(fields["generation"]),
            world_size=world_size,
            rank=rank,
            host=node_name(fields["host"]),
            size=file.size,
            chunks=file.chunks,
            entries=tuple(Entry.from_json(record) for record in list_of(fields["entries"], "entries")),
            about=About.from_json(fields["about"]),
            objects=_object_of(fields["objects"], "objects"),
            versions=_texts(fields["versions"], "versions"),
        )
        _check_places(index)
        return index


def data_name(rank: int) -> str:
    """The name of a rank's data file."""
    return f"{rank:05d}.bin"


def index_name(rank: int) -> str:
    """The name of a rank's index."""
    return f"{rank:05d}.json"


def check_objects(objects: Mapping[str, Any]) -> None:
    """Raise UsageError for a value that would not come back from JSON as it was."""
    for key, value in objects.items():
        _check_object(value, key)


# ---------------------------------------------------------------------------------------------------------- checks


def _check_entry(entry: Entry) -> None:
    what = f"entry {entry.key!r} {entry.box}"
    if not entry.box.within(entry.shape):
        refuse(f"{what} is no box of a tensor of the shape {list(entry.shape)}")
    if entry.length != entry.box.volume * DTYPES[entry.dtype] or math.prod(entry.shape) >= _MAX_SIZE:
        refuse(f"{what} cannot have {entry.length} bytes of {entry.dtype}")
    if entry.kind is not Kind.SHARDED and entry.sizes != entry.shape:
        refuse(f"{what} is {entry.kind}, and not the whole of {list(entry.shape)}")
    if entry.offset % ALIGN_BYTES:
        refuse(f"{what} lies at {entry.offset}, which is no multiple of {ALIGN_BYTES}")
    if not _can_be_stored(entry):
        refuse(f"{what} has {entry.length} bytes; {entry.stored} stored as {entry.encoding} cannot be")


def _can_be_stored(entry: Entry) -> bool:
    """Whether the encoding, the sizes and the base fit together. Compression is kept only where it saves something."""
    if entry.is_reference:
        return entry.encoding is Encoding.RAW and entry.length > 0
    if entry.encoding is Encoding.RAW:
        return entry.stored == entry.length and not entry.base
    return 0 < entry.stored < entry.length and bool(entry.base) == (entry.encoding is Encoding.XOR_ZSTD)


def _check_places(index: RankIndex) -> None:
    """No two entries share a byte, none lies outside the file, and there is nothing but entries in it."""
    for one, next_one in itertools.pairwise(index.entries):
        if (one.key, one.box) >= (next_one.key, next_one.box):
            refuse(f"entry {next_one.key!r} {next_one.box} is listed twice, or not in order")
    end = 0
    for entry in index.entries:
        if entry.base == index.generation:
            refuse(f"entry {entry.key!r} refers to its own generation {entry.base}")
        if entry.is_reference:
            continue
        if entry.offset != end:
            refuse(f"entry {entry.key!r} lies at {entry.offset}, where {end} is the next free place")
        end += aligned(entry.stored)
    if end != index.size:
        refuse(f"the entries end at {end}, the data file at {index.size}")


def _check_object(value: object, key: str, depth: int = 0) -> None:
    """JSON turns tuples into lists and numbers into texts where it must; the state has to come back as it was."""
    if depth > _MAX_DEPTH:
        raise UsageError(f"the state {key!r} is nested more than {_MAX_DEPTH} deep")
    inside: Iterable[object] = ()
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise UsageError(f"the state {key!r} has names that are no texts")
        inside = value.values()
    elif isinstance(value, list):
        inside = value
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"the state {key!r} holds {value}, which JSON has no word for")
    elif type(value) not in {str, int, float, bool, type(None)}:
        raise UsageError(f"the state {key!r} holds a {type(value).__name__}, which cannot be written as JSON")
    for each in inside:
        _check_object(each, key, depth + 1)


def _numbers(value: object, what: str) -> tuple[int, ...]:
    numbers = list_of(value, what)
    if len(numbers) > _MAX_DIMENSIONS:
        refuse(f"{what} has {len(numbers)} dimensions")
    return tuple(whole(number, what, _MAX_SIZE) for number in numbers)


def _member(kind: type[_Member], value: object, what: str) -> _Member:
    if not isinstance(value, str) or value not in {each.value for each in kind}:
        refuse(f"{what} is {shortened(value)}")
    return kind(value)


def _object_of(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        refuse(f"{what} are not a JSON object")
    return value


def _texts(value: object, what: str) -> dict[str, str]:
    return {
        plain_text(name, f"a name in {what}", _MAX_KEY): plain_text(text, f"{what} of {name!r}", _MAX_KEY)
        for name, text in _object_of(value, what).items()
    }


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
