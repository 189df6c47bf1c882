"""What a checkpoint consists of, and when it is whole: records and rules, no file is touched here.

A *generation* is one checkpoint: all files with the same step that one attempt wrote, on all nodes. Each node describes
its files in a `NodeManifest`; the `Commit` names the digest of every node's manifest, and is itself sealed by its own
digest. So one short digest stands for every byte of a checkpoint.

Digests are xxh3-128 in lower-case hex, one per chunk of 1 MiB: they find accidents (bit rot, torn writes, swapped
files), not forgers. Whatever comes from JSON is distrusted: `from_json` refuses unknown and missing keys, wrong types,
names that could leave the folder, and sizes that disagree with the chunks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftslurm.core.about import About
from ftslurm.core.events import Part
from ftslurm.core.strictjson import (
    decode,
    encode,
    expect,
    fields_of,
    finite,
    list_of,
    matching,
    plain_name,
    refuse,
    safe_name,
    shortened,
    whole,
)
from ftslurm.errors import DataDamaged, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CHUNK_BYTES = 1 << 20
DIGEST_CHARS = 32
MANIFEST_FORMAT = "ftslurm-node-manifest/1"
COMMIT_FORMAT = "ftslurm-commit/1"
MANIFEST_LIMIT_BYTES = 128 << 20
"""A manifest of 3 TB on one node has 100 MB."""
COMMIT_LIMIT_BYTES = 16 << 20
TEMP_SUFFIXES = (".part", ".tmp", ".temp", ".partial", "~")
"""A file with such a name is on its way to another name: never part of a checkpoint."""

_MAX_STEP = 10**15
_MAX_SIZE = 1 << 60
_MAX_COUNT = 10**7
_GENERATION = re.compile(r"([0-9]{9,15})-([0-9]{4,9})")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
DIGEST = re.compile(r"[0-9a-f]{32}")
_CHUNKS = re.compile(r"(?:[0-9a-f]{32})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file: its name relative to the program's checkpoint folder, and the digests of its chunks, concatenated."""

    name: str
    size: int
    chunks: str
    rank: int | None = None

    @property
    def chunk_count(self) -> int:
        """How many chunks the file has."""
        return len(self.chunks) // DIGEST_CHARS

    def chunk(self, index: int) -> str:
        """The digest of chunk `index`."""
        return self.chunks[index * DIGEST_CHARS : (index + 1) * DIGEST_CHARS]

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {"name": self.name, "size": self.size, "rank": self.rank, "chunks": self.chunks}

    @classmethod
    def from_json(cls, record: object) -> FileEntry:
        """Raises DataDamaged for anything that this module cannot have written."""
        fields = fields_of(record, ("name", "size", "rank", "chunks"), "file entry")
        name = safe_name(fields["name"])
        size = whole(fields["size"], f"size of {name!r}", _MAX_SIZE)
        rank = None if fields["rank"] is None else whole(fields["rank"], f"rank of {name!r}", _MAX_COUNT)
        chunks = matching(fields["chunks"], _CHUNKS, f"chunks of {name!r}")
        if len(chunks) != DIGEST_CHARS * -(-size // CHUNK_BYTES):
            refuse(f"{name!r} has {size} bytes but {len(chunks) // DIGEST_CHARS} chunks of {CHUNK_BYTES} bytes")
        return cls(name=name, size=size, chunks=chunks, rank=rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeManifest:
    """The files of one generation that one node wrote, sorted by name."""

    run_id: str
    generation: str
    node: str
    world_size: int
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(entry.size for entry in self.files)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that the files' names tell, sorted; empty where the pattern has no {rank}."""
        return tuple(sorted({entry.rank for entry in self.files if entry.rank is not None}))

    def part(self, digest: str) -> Part:
        """What the events say about this node; `digest` is that of this manifest's bytes."""
        return Part(
            node=self.node,
            manifest_digest=digest,
            files=len(self.files),
            size_bytes=self.size_bytes,
            ranks=self.ranks,
        )

    def to_bytes(self) -> bytes:
        """The one spelling of this manifest; its digest is the manifest's digest."""
        return encode(
            {
                "format": MANIFEST_FORMAT,
                "run_id": self.run_id,
                "generation": self.generation,
                "node": self.node,
                "world_size": self.world_size,
                "chunk_bytes": CHUNK_BYTES,
                "files": [entry.to_json() for entry in self.files],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> NodeManifest:
        """Raises DataDamaged for anything that this module cannot have written."""
        keys = ("format", "run_id", "generation", "node", "world_size", "chunk_bytes", "files")
        fields = fields_of(decode(data, "manifest"), keys, "manifest")
        expect(fields["format"], MANIFEST_FORMAT, "format of the manifest")
        expect(fields["chunk_bytes"], CHUNK_BYTES, "chunk size of the manifest")
        files = tuple(FileEntry.from_json(record) for record in list_of(fields["files"], "files"))
        refuse_clashes(entry.name for entry in files)
        return cls(
            run_id=plain_name(fields["run_id"], "run_id"),
            generation=generation_of(fields["generation"]),
            node=node_name(fields["node"]),
            world_size=whole(fields["world_size"], "world_size", _MAX_COUNT),
            files=files,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A whole generation. As COMMIT.json it makes the generation DURABLE; replicated to agents it is the LOCAL record.

    `epoch` is that of the supervisor that decided it; `at` is wall-clock seconds since the epoch, for people. `about`
    is what the program said of the save; nothing in files mode.
    """

    run_id: str
    generation: str
    world_size: int
    epoch: int
    parts: tuple[Part, ...]
    at: float = 0.0
    about: About | None = None

    @property
    def step(self) -> int:
        """The training step."""
        return parse_generation(self.generation)[0]

    @property
    def attempt(self) -> int:
        """The attempt that wrote it."""
        return parse_generation(self.generation)[1]

    @property
    def size_bytes(self) -> int:
        """Of all parts together."""
        return sum(part.size_bytes for part in self.parts)

    def body(self) -> dict[str, Any]:
        """Everything but the seal. Without `about` it is as it was before there was such a thing."""
        about = {} if self.about is None else {"about": self.about.to_json()}
        return {
            "format": COMMIT_FORMAT,
            "run_id": self.run_id,
            "generation": self.generation,
            "world_size": self.world_size,
            "epoch": self.epoch,
            "at": self.at,
            "parts": [_part_to_json(part) for part in sorted(self.parts, key=lambda part: part.node)],
            **about,
        }

    def body_bytes(self) -> bytes:
        """What the commit's own digest covers."""
        return encode(self.body())

    @classmethod
    def from_json(cls, record: object) -> Commit:
        """Read `body()` back. Raises DataDamaged for anything that this module cannot have written."""
        told = isinstance(record, dict) and "about" in record
        keys = ("format", "run_id", "generation", "world_size", "epoch", "at", "parts", *(["about"] if told else []))
        fields = fields_of(record, keys, "commit")
        expect(fields["format"], COMMIT_FORMAT, "format of the commit")
        parts = tuple(_part_from_json(part) for part in list_of(fields["parts"], "parts"))
        nodes = [part.node for part in parts]
        if not parts or nodes != sorted(set(nodes)):
            refuse(f"the parts of the commit are those of {shortened(nodes)}: not sorted, repeated or none")
        return cls(
            run_id=plain_name(fields["run_id"], "run_id"),
            generation=generation_of(fields["generation"]),
            world_size=whole(fields["world_size"], "world_size", _MAX_COUNT),
            epoch=whole(fields["epoch"], "epoch", _MAX_STEP),
            parts=parts,
            at=float(finite(fields["at"], "at")),
            about=About.from_json(fields["about"]) if told else None,
        )


# ----------------------------------------------------------------------------------------------------------- names


def generation_name(step: int, attempt: int) -> str:
    """`<step:09d>-<attempt:04d>`: sorts by step, and no two attempts share one.

    Raises:
        UsageError: a number that is negative or too large.
    """
    if not (0 <= step < _MAX_STEP and 0 <= attempt < 10**9):
        raise UsageError(f"step {step} of attempt {attempt} cannot name a checkpoint", hint="both are counted from 0")
    return f"{step:09d}-{attempt:04d}"


def parse_generation(text: str) -> tuple[int, int]:
    """(step, attempt) of a generation's name; sort by this, never by the text (steps may outgrow nine digits).

    Raises:
        DataDamaged: not the name of a generation.
    """
    match = _GENERATION.fullmatch(text)
    if not match or generation_name(int(match[1]), int(match[2])) != text:
        refuse(f"{shortened(text)} is not the name of a generation")
    return int(match[1]), int(match[2])


def is_generation(text: str) -> bool:
    """True for a name that `parse_generation` takes."""
    try:
        parse_generation(text)
    except DataDamaged:
        return False
    return True


def generation_of(value: object) -> str:
    """`value` itself if it is the name of a generation. Raises DataDamaged otherwise."""
    parse_generation(value if isinstance(value, str) else repr(value))
    return str(value)


def node_name(value: object) -> str:
    """`value` itself if it can be a host name, and so a file name. Raises DataDamaged otherwise."""
    return matching(value, _NODE, "node")


def refuse_clashes(names: Iterable[str]) -> None:
    """Raise DataDamaged unless `names` are sorted, different, and none is a folder of another."""
    seen: set[str] = set()
    folders: set[str] = set()
    last = ""
    for name in names:
        if name <= last:
            refuse(f"file {name!r} is listed twice, or not in order")
        seen.add(name)
        parts = name.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        last = name
    for name in seen & folders:
        refuse(f"{name!r} is a file and a folder at once")


def program_path(entries: Sequence[FileEntry], step: int) -> str:
    """What to hand to the program, relative to the folder that holds the files.

    The file itself where there is one, at the top, of no particular rank; else the folder that carries the step in its
    name (`step_500` of `step_500/rank_0.pt`), so that it is the same for every number of ranks; else the top ("").
    """
    if len(entries) == 1 and "/" not in entries[0].name and entries[0].rank is None:
        return entries[0].name
    folders = {_step_folder(entry.name, step) for entry in entries}
    return folders.pop() if len(folders) == 1 else ""


def _step_folder(name: str, step: int) -> str:
    """The first folders of `name`, down to the one whose name holds the step; "" where none does."""
    folders = name.split("/")[:-1]
    for depth, folder in enumerate(folders, start=1):
        if any(int(number) == step for number in re.findall(r"[0-9]{1,18}", folder)):
            return "/".join(folders[:depth])
    return ""


# ----------------------------------------------------------------------------------------------------------- rules


def missing_ranks(parts: Iterable[Part], world_size: int) -> tuple[int, ...]:
    """The ranks of the world of which no part has a file."""
    present = {rank for part in parts for rank in part.ranks}
    return tuple(rank for rank in range(world_size) if rank not in present)


def is_complete(parts: Sequence[Part], world_size: int, *, wants_all_ranks: bool) -> bool:
    """True where the parts make a whole checkpoint: some file, and one of every rank where each writes its own.

    Whether a node still *has files on their way* is not seen here (`PartPending`).
    """
    if not parts:
        return False
    return not wants_all_ranks or not missing_ranks(parts, world_size)


def check_against(commit: Commit, manifests: Mapping[str, NodeManifest]) -> tuple[FileEntry, ...]:
    """All files of a generation, sorted by name, after checking that the manifests are those the commit means.

    Files that several nodes wrote with the same content are listed once.

    Raises:
        DataDamaged: a manifest of another run, generation or node; counts that disagree; one name, two contents.
    """
    union: dict[str, FileEntry] = {}
    for part in commit.parts:
        manifest = manifests[part.node]
        told = (manifest.run_id, manifest.generation, manifest.node)
        if told != (commit.run_id, commit.generation, part.node):
            refuse(f"the manifest of {part.node} in {commit.generation} is that of {'/'.join(told)}")
        if (len(manifest.files), manifest.size_bytes, manifest.ranks) != (part.files, part.size_bytes, part.ranks):
            refuse(f"the manifest of {part.node} in {commit.generation} disagrees with the commit on files or sizes")
        for entry in manifest.files:
            other = union.setdefault(entry.name, entry)
            if (other.size, other.chunks) != (entry.size, entry.chunks):
                refuse(f"two nodes wrote different content to {entry.name!r} (one is {part.node})")
    names = sorted(union)
    refuse_clashes(names)
    return tuple(union[name] for name in names)


def _part_to_json(part: Part) -> dict[str, Any]:
    return {
        "node": part.node,
        "manifest": part.manifest_digest,
        "files": part.files,
        "size": part.size_bytes,
        "ranks": list(part.ranks),
    }


def _part_from_json(record: object) -> Part:
    fields = fields_of(record, ("node", "manifest", "files", "size", "ranks"), "part")
    return Part(
        node=node_name(fields["node"]),
        manifest_digest=matching(fields["manifest"], DIGEST, "digest of a manifest"),
        files=whole(fields["files"], "files", _MAX_COUNT),
        size_bytes=whole(fields["size"], "size", _MAX_SIZE),
        ranks=tuple(whole(rank, "rank", _MAX_COUNT) for rank in list_of(fields["ranks"], "ranks")),
    )
