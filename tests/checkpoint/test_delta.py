from __future__ import annotations

import dataclasses
import shutil
import tracemalloc

import numpy as np
import pytest
import zstandard

from ftslurm.checkpoint import reduction
from ftslurm.checkpoint.delta import pack_part
from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.checkpoint.packing import BLOCK_BYTES, Packer, unpacked
from ftslurm.core.about import SaveKind
from ftslurm.core.manifest import NodeManifest
from ftslurm.core.rankindex import Encoding, Entry, Kind, RankIndex
from ftslurm.errors import DataDamaged, UsageError
from tests.checkpoint.packable import Node, Piece, bytes_of, loaded, manifest_digest, stepped, tensor

MIB = 1 << 20


@pytest.fixture
def node(tmp_path):
    """One node and a store."""
    return Node(tmp_path)


def index_of(folder, rank=0):
    """The index of a rank, as it lies there."""
    return RankIndex.from_bytes((folder.data / f"{rank:05d}.json").read_bytes())


def encodings(folder):
    """How the entries of rank 0 lie there."""
    return {entry.key: entry.encoding.value for entry in index_of(folder).entries}


def flip(path, at, bit=0):
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


# ----------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "int16", "int8"])
@pytest.mark.parametrize("count", [1, 4099, 262_144, 600_001])
def test_differences_come_back_bit_by_bit(node, dtype, count):
    """Whatever the type and the size: what was packed is read as it was saved."""
    first = [tensor("w", count, dtype)]
    second = [stepped(first[0])]
    base = node.save_durably(1, first)
    node.difference(node.save(2, second), base)
    assert loaded(node.durable("000000002-0000"), second) == bytes_of(second)


def test_a_state_of_many_kinds(node):
    """Scalars, empty tensors, new and changed keys, noise and what has not changed, on several ranks."""
    node.world_size = 2
    noise = np.random.default_rng(3).bytes(300_000)
    first = {
        rank: [tensor("w", 500_000, seed=rank), tensor("none", 0), tensor("one", 1), Piece("noise", "uint8", noise)]
        for rank in (0, 1)
    }
    second = {
        rank: [
            *(stepped(piece, seed=rank) for piece in state[:3]),
            Piece("noise", "uint8", noise[::-1]),
            tensor("x", 9),
        ]
        for rank, state in first.items()
    }
    base = node.save_durably(1, first)
    node.difference(node.save(2, second), base)
    folder = node.durable("000000002-0000")
    for rank in (0, 1):
        assert loaded(folder, second[rank], rank) == bytes_of(second[rank])
    assert encodings(folder) == {"w": "xor+zstd", "none": "raw", "one": "raw", "noise": "raw", "x": "raw"}


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("of_base", ["none", "zstd"])
def test_compressed_saves_are_packed_too(node, compression, of_base):
    """What was compressed when it was saved is a base, and becomes a difference, like any other."""
    first = [tensor("w", 300_000)]
    second = [stepped(first[0])]
    base = node.save_durably(1, first, compression=of_base)
    node.difference(node.save(2, second, compression=compression), base)
    folder = node.durable("000000002-0000")
    assert encodings(folder) == {"w": "xor+zstd"}
    assert loaded(folder, second) == bytes_of(second)


def test_without_a_base(node):
    """A full generation is packed by itself; and serves as a base, and for references, as it lies there."""
    kept = tensor("kept", 200_000, seed=5)
    first = [kept, tensor("w", 300_000)]
    second = [kept, stepped(first[1])]
    base = node.save(1, first)
    node.difference(base, "")
    assert encodings(node.durable(base)) == {"kept": "zstd", "w": "zstd"}
    assert loaded(node.durable(base), first) == bytes_of(first)
    out = node.difference(node.save(2, second, base=base), base)
    folder = node.durable("000000002-0000")
    assert out.references == {base}
    assert encodings(folder) == {"kept": "raw", "w": "xor+zstd"}
    assert loaded(folder, second) == bytes_of(second)


def test_what_is_said_of_the_save(node):
    """The index says that it is a diff, and of what; the captured part is left as it was."""
    base = node.save_durably(1, [tensor("w", 50_000)])
    name = node.save(2, [stepped(tensor("w", 50_000))])
    before = manifest_digest(node.captured(name))
    out = node.difference(name, base)
    about = index_of(node.durable(name)).about
    assert (about.kind, about.base) == (SaveKind.DIFF, base)
    assert manifest_digest(node.captured(name)) == before != out.part.manifest_digest
    assert encodings(node.captured(name)) == {"w": "raw"}


def test_near_numbers_make_small_differences(node):
    """Differences are smaller than what was saved, smaller than without a base, and counted as they lie there."""
    base = node.save_durably(1, [tensor("w", MIB)])
    name = node.save(2, [stepped(tensor("w", MIB))])
    alone = pack_part(node.captured(name), "n1", node.packed("alone"))
    out = node.difference(name, base)
    (packed,) = out.account.trial(Encoding.XOR_ZSTD).packed
    assert packed.ratio > alone.packed.ratio > 1.05
    assert packed.ratio > 1.3
    lies = sum(path.stat().st_size for path in node.durable(name).data.iterdir())
    assert packed.stored_bytes == out.part.size_bytes == lies
    manifest = NodeManifest.from_bytes((node.captured(name).manifests / "n1.json").read_bytes())
    assert packed.raw_bytes == manifest.size_bytes


def test_memory_does_not_grow_with_the_part(node):
    """48 MiB are packed in less than ten."""
    base = node.save_durably(1, [tensor("w", 12 * MIB)])
    name = node.save(2, [stepped(tensor("w", 12 * MIB))])
    node.drain(node.save(3, [tensor("w", 10)]))  # what is imported and made once
    tracemalloc.start()
    try:
        out = node.drain(name, base)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out.references == {base}
    assert peak < 10 * MIB


# ----------------------------------------------------------------------------------------------------------- damage


def packed_entry(raw, base=None, dtype="float32", **changes):
    """(entry, stored bytes) of raw bytes."""
    packer = Packer()
    itemsize = {"float32": 4, "uint8": 1}[dtype]
    blocks = range(0, len(raw), BLOCK_BYTES)
    cut = [(raw[at : at + BLOCK_BYTES], base and base[at : at + BLOCK_BYTES]) for at in blocks]
    stored = b"".join(packer.pack(block, itemsize, below) for block, below in cut)
    entry = Entry(
        key="w", kind=Kind.RANK, dtype=dtype, shape=(len(raw) // itemsize,), offsets=(0,),
        sizes=(len(raw) // itemsize,), offset=0, stored=len(stored), length=len(raw), digest=digest_bytes(raw),
        encoding=Encoding.XOR_ZSTD if base else Encoding.ZSTD, base="000000001-0000" if base else "",
    )  # fmt: skip
    return dataclasses.replace(entry, **changes), stored


class Stream:
    """Stored bytes."""

    def __init__(self, data):
        self.data = memoryview(data)

    def read(self, size):
        piece, self.data = self.data[:size], self.data[size:]
        return piece


def unpack(entry, stored, base=None):
    """All raw bytes."""
    blocks = None if base is None else (memoryview(base)[at : at + MIB] for at in range(0, len(base), MIB))
    return b"".join(bytes(block) for block in unpacked(entry, Stream(stored), blocks))


def test_every_flipped_bit_is_found_without_the_chunks():
    """Even where no chunk's digest stands in between, no flipped bit of a packed entry goes through."""
    base = tensor("w", 500).data
    raw = stepped(tensor("w", 500)).data
    entry, stored = packed_entry(raw, base)
    assert unpack(entry, stored, base) == raw
    for at in range(len(stored)):
        for bit in range(8):
            wrong = bytearray(stored)
            wrong[at] ^= 1 << bit
            try:
                found = unpack(entry, wrong, base)
            except DataDamaged:
                continue
            # A bit that zstd does not use (an unused one of the header) changes nothing.
            assert found == raw, (at, bit)


@pytest.mark.parametrize("at", [0, 5, 100, 4095, 5000, -4096, -1])
def test_flipped_bytes_of_the_file_are_refused(node, at):
    """Also those between the entries: chunks are verified whole."""
    base = node.save_durably(1, [tensor("w", 5000), tensor("x", 3000)])
    name = node.save(2, [stepped(tensor("w", 5000)), stepped(tensor("x", 3000))])
    node.difference(name, base)
    path = node.durable(name).data / "00000.bin"
    flip(path, at % path.stat().st_size)
    with pytest.raises(DataDamaged, match=r"00000\.bin: chunk 0: wrong bytes") as caught:
        loaded(node.durable(name), [tensor("w", 5000), tensor("x", 3000)])
    assert "\n" not in str(caught.value)


@pytest.fixture
def pair(node):
    """(node, base, difference), and what was saved."""
    state = [tensor("w", 300_000)]
    base = node.save_durably(1, state)
    name = node.save(2, [stepped(state[0])])
    node.difference(name, base)
    return node, base, name


def refused(folder):
    """Why the generation cannot be loaded, in one line."""
    with pytest.raises(DataDamaged) as caught:
        loaded(folder, [tensor("w", 300_000)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_base_is_refused(pair):
    """A difference is worth as much as its base."""
    node, base, name = pair
    flip(node.durable(base).data / "00000.bin", 1_100_000)
    assert "00000.bin: chunk 1: wrong bytes" in refused(node.durable(name))


def test_a_missing_base_is_refused(pair):
    """One line says what is missing."""
    node, base, name = pair
    shutil.rmtree(node.durable(base).root)
    assert f"{base}/COMMIT.json is missing" in refused(node.durable(name))


def test_a_base_that_is_a_difference_is_refused(pair):
    """Differences are never chained: not when they are made, and not when they are read."""
    node, _, name = pair
    third = node.save(3, [stepped(tensor("w", 300_000), seed=4)])
    out = node.drain(third, name)
    assert out.reason == f"not packed: {name} is no base: it is a difference itself"
    with pytest.raises(UsageError, match="is no base"):
        reduction.Base(index_of(node.durable(name)))
    forged(node, third, name)
    assert f"of {name} is a difference itself, and no base for others" in refused(node.durable(third))


def forged(node, generation, base):
    """Commit a generation whose entries claim to be differences from `base`."""
    out = pack_part(node.captured(generation), "n1", node.packed(generation))
    index = index_of(node.packed(generation))
    entries = tuple(dataclasses.replace(entry, encoding=Encoding.XOR_ZSTD, base=base) for entry in index.entries)
    data = dataclasses.replace(index, entries=entries).to_bytes()
    folder = node.durable(generation)
    shutil.rmtree(folder.root, ignore_errors=True)
    shutil.copytree(node.packed(generation).root, folder.root)
    (folder.data / "00000.json").write_bytes(data)
    files = tuple(
        dataclasses.replace(file, size=len(data), chunks=digest_bytes(data)) if file.name.endswith("json") else file
        for file in out.manifest.files
    )
    manifest = dataclasses.replace(out.manifest, files=files)
    (folder.manifests / "n1.json").write_bytes(manifest.to_bytes())
    node.commit(generation, manifest.part(digest_bytes(manifest.to_bytes())))


def test_another_base_is_found_out(node):
    """Bytes XORed with another base than the index says have another digest."""
    base = node.save_durably(1, [tensor("w", 300_000)])
    other = node.save(2, [stepped(tensor("w", 300_000))])
    forged(node, other, base)
    assert "is not what was packed, or not from this base" in refused(node.durable(other))


# ----------------------------------------------------------------------------------------------------------- hostile


RAW = bytes(100_000)
HOSTILE = {
    "declares a petabyte": lambda: bytes.fromhex("28b52ffde0") + (1 << 50).to_bytes(8, "little") + b"\1\0\0",
    "wants a window of 128 MiB": lambda: bytes.fromhex("28b52ffd00") + bytes([17 << 3]) + zeros(1)[6:],
    "holds a gigabyte of zeros": lambda: zeros(1 << 10),
    "goes on": lambda: zstandard.compress(RAW) + zstandard.compress(b"more"),
    "ends too early": lambda: zstandard.compress(RAW[1:]),
    "is cut": lambda: zstandard.compress(RAW)[:-5],
    "is nothing": lambda: b"",
    "is no frame": lambda: b"\xff" * 500,
    "holds other bytes": lambda: zstandard.compress(b"x" * len(RAW)),
    "has garbage behind it": lambda: zstandard.compress(RAW) + b"garbage",
}


def zeros(mebibytes):
    """A frame of so many zeros, which does not say how many they are."""
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join(packer.compress(bytes(MIB)) for _ in range(mebibytes)) + packer.flush()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_are_refused_without_taking_memory(name):
    """No frame says how much memory is taken."""
    stored = HOSTILE[name]()
    entry, _ = packed_entry(RAW, dtype="uint8", stored=max(len(stored), 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataDamaged) as caught:
            unpack(entry, stored)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 8 * MIB


def test_an_entry_that_declares_too_much_is_refused_before_memory_is_taken():
    """A few stored bytes cannot stand for a petabyte."""
    entry, stored = packed_entry(bytes(4000), length=1 << 50, shape=(1 << 48,), sizes=(1 << 48,))
    with pytest.raises(DataDamaged, match="bytes cannot hold 1125899906842624"):
        unpack(entry, stored)


def test_zeros_are_not_taken_for_hostile(node):
    """What compresses best of all is still read."""
    state = [Piece("w", "float32", bytes(64 * MIB))]
    name = node.save(1, state)
    node.difference(name, "")
    assert index_of(node.durable(name)).entries[0].stored < 64 * MIB // 10_000
    assert loaded(node.durable(name), state) == bytes_of(state)


# ------------------------------------------------------------------------------------------------- nothing is left


def test_a_damaged_source_leaves_nothing(node):
    """The part is read through its digests: what is wrong is never packed."""
    name = node.save(1, [tensor("w", 600_000)])
    flip(node.captured(name).data / "00000.bin", 2_000_000)
    with pytest.raises(DataDamaged, match="chunk 1: wrong bytes"):
        pack_part(node.captured(name), "n1", node.packed(name))
    assert not node.packed(name).root.exists()


def test_an_index_that_disagrees_with_its_data_is_refused(node):
    """The digest of the raw bytes is looked at before they are packed under another name."""
    name = node.save(1, [tensor("w", 600_000)])
    folder = node.captured(name)
    index = index_of(folder)
    entry = dataclasses.replace(index.entries[0], digest="0" * 32)
    data = dataclasses.replace(index, entries=(entry,)).to_bytes()
    (folder.data / "00000.json").write_bytes(data)
    manifest = NodeManifest.from_bytes((folder.manifests / "n1.json").read_bytes())
    files = (manifest.files[0], dataclasses.replace(manifest.files[1], size=len(data), chunks=digest_bytes(data)))
    (folder.manifests / "n1.json").write_bytes(dataclasses.replace(manifest, files=files).to_bytes())
    with pytest.raises(DataDamaged, match="is not what its index says"):
        pack_part(folder, "n1", node.packed(name))


def test_files_of_another_layout_are_refused(world):
    """Only data files with indexes can be packed."""
    captured = world.capture("n1", 1, {"step_1.pt": b"program's own"})
    with pytest.raises(UsageError, match="does not consist of data files and indexes"):
        pack_part(world.scratch("n1").generation(captured.folder.name), "n1", world.paths.generation("000000009-0000"))


def test_repeating_it_gives_the_same(node):
    """Packing is deterministic: a part that was packed twice has one digest."""
    name = node.save(1, [tensor("w", 600_000)])
    digests = {pack_part(node.captured(name), "n1", node.packed(name)).digest for _ in range(2)}
    assert len(digests) == 1
