"""Writing less: references to what a base generation has already, and compression.

Both keep the layout's rule: entries follow each other from border to border, in the order of the stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ftslurm.checkpoint.packing import Packer, zstandard
from ftslurm.checkpoint.stage import Placed, Staged
from ftslurm.core.rankindex import DTYPES, Encoding, Entry, RankIndex, aligned
from ftslurm.core.tiling import Box
from ftslurm.errors import UsageError

_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What of a staged piece goes into the data file: `stored` bytes of the stage from the piece's own place on.

    `offset` is the place in the data file; in that of `base` for a reference.
    """

    piece: Placed
    offset: int
    stored: int
    encoding: Encoding = Encoding.RAW
    base: str = ""

    @property
    def start(self) -> int:
        """Where its bytes lie in the stage."""
        return self.piece.offset

    @property
    def end(self) -> int:
        """Where they end, with the padding."""
        return self.piece.offset + aligned(self.stored)

    def entry(self, digest: str) -> Entry:
        """As it stands in the index; `digest` is that of the raw bytes."""
        return Entry(
            key=self.piece.key,
            kind=self.piece.kind,
            dtype=self.piece.dtype,
            shape=self.piece.shape,
            offsets=self.piece.box.offsets,
            sizes=self.piece.box.sizes,
            offset=self.offset,
            stored=self.stored,
            length=self.piece.length,
            digest=digest,
            encoding=self.encoding,
            base=self.base,
        )


class Base:
    """What an earlier generation holds, and need not be written again.

    It has to be committed, full (references are never chained), and of the same run, rank and world.
    """

    def __init__(self, index: RankIndex) -> None:
        if index.references():
            raise UsageError(f"{index.generation} is no base: it refers to {', '.join(sorted(index.references()))}")
        self.index = index
        self._entries: dict[tuple[str, Box], Entry] = {(entry.key, entry.box): entry for entry in index.entries}

    @property
    def generation(self) -> str:
        """Its name."""
        return self.index.generation

    def check(self, run_id: str, world_size: int, rank: int) -> None:
        """Raise UsageError unless it is of the same run, world and rank."""
        told = (self.index.run_id, self.index.world_size, self.index.rank)
        if told != (run_id, world_size, rank):
            raise UsageError(f"{self.generation} is no base: it is that of {told}, not of {(run_id, world_size, rank)}")

    def find(self, piece: Placed, digest: str) -> Entry | None:
        """The entry of the same piece with the same bytes."""
        entry = self._entries.get((piece.key, piece.box))
        if entry is None or not piece.length:
            return None
        told = (entry.kind, entry.dtype, entry.shape, entry.length, entry.digest)
        return entry if told == (piece.kind, piece.dtype, piece.shape, piece.length, digest) else None


class Compressor:
    """Packs pieces of the stage (`ftslurm.checkpoint.packing`)."""

    def __init__(self, level: int) -> None:
        zstandard()  # its absence is said before anything is written
        self._level = level

    def in_place(self, staged: Staged, piece: Placed) -> int:
        """Replace a piece's raw bytes by the compressed ones where those take less room; returns how many they are."""
        frames: list[bytes] = []
        size = 0
        for frame in Packer(self._level).pack_all(staged.bytes_of(piece), DTYPES[piece.dtype]):
            frames.append(frame)
            size += len(frame)
            if aligned(size) >= aligned(piece.length):
                return piece.length
        compressed = b"".join(frames)
        stop = piece.offset + len(compressed)
        staged.memory[piece.offset : stop] = compressed
        staged.memory[stop : aligned(stop)] = bytes(aligned(stop) - stop)
        return len(compressed)


def as_staged(staged: Staged) -> list[Stored]:
    """Every piece, raw, where it lies."""
    return [Stored(piece=piece, offset=piece.offset, stored=piece.length) for piece in staged.pieces]


def reduced(staged: Staged, digests: Sequence[str], base: Base | None, compressor: Compressor | None) -> list[Stored]:
    """What has to be stored where some is known to the base, and some can be compressed."""
    pairs = zip(staged.pieces, digests, strict=True)
    known = [base.find(piece, digest) if base else None for piece, digest in pairs]
    new = [piece for piece, entry in zip(staged.pieces, known, strict=True) if entry is None]
    sizes = iter(_compressed(staged, new, compressor) if compressor else [piece.length for piece in new])
    parts: list[Stored] = []
    end = 0
    for piece, entry in zip(staged.pieces, known, strict=True):
        if base and entry:
            parts.append(Stored(piece=piece, offset=entry.offset, stored=0, base=base.generation))
            continue
        stored = next(sizes)
        encoding = Encoding.ZSTD if stored < piece.length else Encoding.RAW
        parts.append(Stored(piece=piece, offset=end, stored=stored, encoding=encoding))
        end += aligned(stored)
    return parts


def _compressed(staged: Staged, pieces: Sequence[Placed], compressor: Compressor) -> list[int]:
    with ThreadPoolExecutor(_THREADS, "ftslurm-zstd") as pool:
        return list(pool.map(lambda piece: compressor.in_place(staged, piece), pieces))
