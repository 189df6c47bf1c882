from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ftslurm.checkpoint.arrays import Own, Shard, State, wants
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.reader import Counters, Generation, Want
from ftslurm.checkpoint.scatter import SLAB_BYTES
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.core.tiling import Box
from ftslurm.errors import DataDamaged, StorageError, UsageError
from tests.checkpoint.library import Library, spread


def noise(shape: tuple[int, ...], seed: int, dtype: str = "f4") -> np.ndarray:
    """Any bits, NaNs among them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape).copy()


COMMON = {"bias": noise((7,), 3, "f8"), "half": noise((5, 3), 4, "f2"), "scalar": np.array(3), "none": np.zeros((0, 4))}
ROWS, COLUMNS = noise((1023, 1021), 1), noise((513, 2050), 2)
SMALL = noise((3, 5), 5, "c16")


def state_of(rank: int, world_size: int) -> State:
    """What a rank of so many has, with the true values."""
    spread_ = {
        "rows": spread(ROWS, world_size)[rank],
        "columns": spread(COLUMNS, world_size, axis=1)[rank],
        "small": spread(SMALL, world_size)[rank],
    }
    return COMMON | spread_


def emptied(state: State) -> State:
    """The same form, without the values."""
    return {
        key: Shard(np.zeros_like(value.array), value.offsets, value.global_shape)
        if isinstance(value, Shard)
        else np.zeros_like(value)
        for key, value in state.items()
    }


def same(found: State, wanted: State) -> bool:
    """Bit by bit."""
    pairs = ((found[key], wanted[key]) for key in wanted)
    return all(
        (a.array if isinstance(a, Shard) else a).tobytes() == (b.array if isinstance(b, Shard) else b).tobytes()
        for a, b in pairs
    )


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A store of its own."""
    return Library(tmp_path / "store")


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("world_size", [4, 1])
def test_any_number_of_ranks_reads_what_any_number_wrote(library: Library, world_size: int, compression: str) -> None:
    """Bit by bit, cut along either dimension, with sizes that do not divide and ranks that have nothing."""
    folder = library.save(1, [state_of(rank, world_size) for rank in range(world_size)], compression=compression)
    with Generation.open(folder) as generation:
        for readers in (1, 2, 3, 4, 6):
            for rank in range(readers):
                wanted = state_of(rank, readers)
                found = emptied(wanted)
                generation.read(wants(found, rank))
                assert same(found, wanted)


def test_two_dimensional_boxes_and_places_with_any_strides(library: Library) -> None:
    """A tensor that is cut both ways is read in other boxes, into transposed and stepped memory."""
    boxes = [Box((a, b), (n, m)) for a, n in ((0, 700), (700, 323)) for b, m in ((0, 20), (20, 1001))]
    states = [
        {"rows": Shard(ROWS[a : a + n, b : b + m], (a, b), ROWS.shape)}
        for (a, b), (n, m) in ((box.offsets, box.sizes) for box in boxes)
    ]
    folder = library.save(1, states)
    with Generation.open(folder) as generation:
        transposed = np.zeros((400, 350), "f4").T
        stepped = np.zeros((700, 802), "u4")[::2, ::2]
        for into in (transposed, stepped, np.zeros((350, 401), "V4")):
            sizes = into.shape
            generation.read([Want(key="rows", offsets=(500, 7), sizes=sizes, into=into)])
            assert into.tobytes() == ROWS[500 : 500 + sizes[0], 7 : 7 + sizes[1]].tobytes()


def test_one_byte_wanted_reads_one_chunk(library: Library) -> None:
    """A slice costs the chunks it touches, not the file; wanting it twice costs a second reading at most."""
    big = noise((5 * CHUNK_BYTES,), 1, "u1")
    folder = library.save(1, [{"big": big}])
    one, other = np.zeros(1, "u1"), np.zeros(1, "u1")
    with Generation.open(folder) as generation:
        want = Want(key="big", offsets=(2 * CHUNK_BYTES + 5,), sizes=(1,), into=one)
        assert generation.read([want]) == Counters({"own": CHUNK_BYTES}, 1)
        again = Want(key="big", offsets=want.offsets, sizes=(1,), into=other)
        assert generation.read([want, again]).chunks == 2
        assert one[0] == other[0] == big[2 * CHUNK_BYTES + 5]
        assert generation.read([]) == Counters()


def test_a_chunk_of_many_tensors_is_read_once(library: Library) -> None:
    """Small tensors share chunks; all of them are filled by one call for each chunk."""
    state = {f"t{number:03d}": noise((number,), number) for number in range(300)}
    folder = library.save(1, [state])
    found = {key: np.zeros_like(value) for key, value in state.items()}
    with Generation.open(folder) as generation:
        counters = generation.read(wants(found, 0))
        assert counters.chunks == len(generation.whole.indexes[0].chunks) // 32 == 2
    assert same(found, state)


def test_rows_longer_than_the_buffer(library: Library) -> None:
    """The buffer grows to a row where one row is more than it."""
    wide = noise((3, 2, SLAB_BYTES // 3), 1)
    folder = library.save(1, [{"wide": wide}])
    into = np.zeros((3, 2, 10), "f4")
    with Generation.open(folder) as generation:
        generation.read([Want(key="wide", offsets=(0, 0, 5), sizes=(3, 2, 10), into=into)])
    assert into.tobytes() == wide[:, :, 5:15].tobytes()


def test_a_rank_s_own_and_the_objects(library: Library) -> None:
    """Each rank's own arrays and objects are asked for by its number."""
    folder = library.save(1, [{"rng": Own(np.array([rank]))} for rank in range(3)])
    with Generation.open(folder) as generation:
        own = Own(np.zeros(1, int))
        generation.read(wants({"rng": own}, 2))
        assert own.array[0] == 2
        assert [generation.objects(rank)["rank"] for rank in (None, 0, 2)] == [0, 0, 2]
        for rank in (3, -1, None):
            with pytest.raises(UsageError, match="has no 'rng'"):
                generation.read([Want(key="rng", offsets=(0,), sizes=(1,), into=own.array, rank=rank)])


@pytest.mark.parametrize(
    ("want", "said"),
    [
        (Want(key="x", offsets=(0,), sizes=(7,), into=np.zeros(7)), "has no 'x'"),
        (Want(key="bias", offsets=(1,), sizes=(7,), into=np.zeros(7)), "does not lie in it"),
        (Want(key="bias", offsets=(0, 0), sizes=(7, 1), into=np.zeros((7, 1))), "does not lie in it"),
        (Want(key="bias", offsets=(0,), sizes=(7,), into=np.zeros(6)), "does not fit its place"),
        (Want(key="bias", offsets=(0,), sizes=(7,), into=np.zeros(7, "f4")), "does not fit its place"),
        (Want(key="bias", offsets=(0,), sizes=(7,), into=np.frombuffer(bytes(56))), "does not fit its place"),
    ],
)
def test_wants_that_do_not_fit_are_refused(library: Library, want: Want, said: str) -> None:
    """The message names the tensor and both forms."""
    folder = library.save(1, [{"bias": COMMON["bias"]}])
    with Generation.open(folder) as generation, pytest.raises(UsageError, match=said):
        generation.read([want])


# ------------------------------------------------------------------------------------------------------- damage


def flip(path: Path, place: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def read_all(folder: GenerationPaths, state: State, **access: object) -> Counters:
    """Open, read everything, compare."""
    found = emptied(state)
    with Generation.open(folder, **access) as generation:
        counters = generation.read(wants(found, 0))
    assert same(found, state)
    return counters


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_chunk_that_is_flipped_is_refused(library: Library, compression: str) -> None:
    """One wrong bit anywhere, padding too, and the message names file, chunk and both digests."""
    state = {"a": noise((700_000,), 1), "b": noise((9,), 2), "c": np.zeros((900, 900))}
    folder = library.save(1, [state], compression=compression)
    path = folder.data / "00000.bin"
    size = path.stat().st_size
    for place in (*range(5, size, CHUNK_BYTES), size - 1):
        flip(path, place)
        with pytest.raises(DataDamaged, match=rf"00000.bin: chunk {place // CHUNK_BYTES}: .*digest \w+, should be \w+"):
            read_all(folder, state)
        flip(path, place)
    read_all(folder, state)


def truncate(path: Path) -> None:
    """Take the last bytes."""
    os.truncate(path, path.stat().st_size - 2)


def link(path: Path) -> None:
    """Put a link in its place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "bytes, should have|was changed|not valid JSON"),
    (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes, should have|was changed|not valid JSON"),
    (Path.unlink, "is missing"),
    (lambda path: flip(path, path.stat().st_size // 2), "digest|not valid JSON|was changed"),
    (link, "is a link"),
]


@pytest.mark.parametrize("name", ["d/00001.bin", "d/00001.json", "m/rank-00001.json", "COMMIT.json"])
@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_every_damaged_file_is_refused_or_taken_from_another_copy(
    library: Library, tmp_path: Path, name: str, damage: Callable[[Path], None], said: str
) -> None:
    """Alone it is refused; with a partner's copy everything is read, and the bad file is told once, by its path."""
    states = [state_of(rank, 2) for rank in range(2)]
    folder = library.save(1, states)
    partner = GenerationPaths(tmp_path / "partner" / folder.root.name)
    shutil.copytree(folder.root, partner.root)
    damage(folder.root / name)
    whole = state_of(0, 1)
    with pytest.raises(DataDamaged, match=said):
        read_all(folder, whole)
    told: list[tuple[Path, str]] = []
    counters = read_all(folder, whole, others=[partner], on_damage=lambda path, reason: told.append((path, reason)))
    assert ("copy" in counters.bytes_read) == name.endswith(".bin")
    assert [path for path, _ in told] == ([] if damage is Path.unlink else [folder.root / name])
    assert all("\n" not in reason for _, reason in told)


def test_two_copies_that_are_wrong_at_different_places_make_a_right_one(library: Library, tmp_path: Path) -> None:
    """Chunk by chunk, each from where it is right; at one place wrong in both there is no more to do."""
    state = {"a": noise((3 * CHUNK_BYTES,), 1, "u1")}
    folder = library.save(1, [state])
    partner = GenerationPaths(tmp_path / "partner" / folder.root.name)
    shutil.copytree(folder.root, partner.root)
    flip(folder.data / "00000.bin", 0)
    flip(partner.data / "00000.bin", CHUNK_BYTES)
    assert read_all(folder, state, others=[partner]) == Counters({"copy": CHUNK_BYTES, "own": 2 * CHUNK_BYTES}, 3)
    flip(folder.data / "00000.bin", CHUNK_BYTES)
    with pytest.raises(DataDamaged, match="chunk 1"):
        read_all(folder, state, others=[partner])


def test_files_that_are_not_there_are_fetched(library: Library, tmp_path: Path) -> None:
    """Once, by generation and name, and verified like any other; a fetch that fails says why."""
    states = [state_of(rank, 2) for rank in range(2)]
    folder = library.save(1, states)
    elsewhere = tmp_path / "peer.bin"
    (folder.data / "00001.bin").rename(elsewhere)
    asked: list[tuple[str, str]] = []

    def fetch(generation: str, name: str) -> Path:
        asked.append((generation, name))
        return elsewhere

    whole = state_of(0, 1)
    assert set(read_all(folder, whole, fetch=fetch).bytes_read) == {"own", "fetched"}
    assert asked == [(folder.root.name, "00001.bin")]
    flip(elsewhere, 5)
    with pytest.raises(DataDamaged, match="peer"):
        read_all(folder, whole, fetch=fetch)

    def fail(generation: str, name: str) -> Path:
        raise StorageError("nobody answers")

    with pytest.raises(StorageError, match="nobody answers"):
        read_all(folder, whole, fetch=fail)


def test_a_disk_that_cannot_be_read_is_no_damage(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO is weather: another copy serves, and without one the error is StorageError."""
    state = {"a": COMMON["bias"]}
    folder = library.save(1, [state])
    partner = GenerationPaths(tmp_path / "partner" / folder.root.name)
    shutil.copytree(folder.root, partner.root)
    real = os.preadv
    bad = (folder.data / "00000.bin").stat().st_ino

    def preadv(descriptor: int, views: list[memoryview], offset: int) -> int:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    assert read_all(folder, state, others=[partner]).bytes_read == {"copy": 4096}
    with pytest.raises(StorageError, match="Input/output error"):
        read_all(folder, state)


def test_short_reads_are_continued(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """readv(2) may read less than it was asked for, also in the middle of a piece."""
    state = {f"t{number}": noise((number * 100,), number) for number in range(40)} | {"c": noise((700, 700), 1)}
    folder = library.save(1, [state])
    real = os.preadv

    def preadv(descriptor: int, views: list[memoryview], offset: int) -> int:
        return real(descriptor, [*views[:2], views[2][:7]] if len(views) > 2 else [views[0][:70_001]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    read_all(folder, state)


def test_a_shard_of_another_save_is_refused(library: Library) -> None:
    """Files of another step under the right name, with an index that fits them, are not those that were committed."""
    first = library.save(1, [{"a": noise((9,), 1)}])
    second = library.save(2, [{"a": noise((9,), 2)}])
    for name in ("00000.bin", "00000.json"):
        shutil.copy(second.data / name, first.data / name)
    with pytest.raises(DataDamaged, match=r"00000.json"):
        Generation.open(first)


# ------------------------------------------------------------------------------------------------------ references


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_diff_is_read_with_its_base(library: Library, compression: str) -> None:
    """What has not changed comes from the base; on any number of ranks; a base that is missing or wrong is refused."""
    states = [state_of(rank, 4) for rank in range(4)]
    base = library.save(1, states, compression=compression)
    changed = [state | {"bias": COMMON["bias"] + 1, "scalar": np.array(4)} for state in states]
    folder = library.save(2, changed, on_base=True)
    assert sum(path.stat().st_size for path in folder.data.glob("*.bin")) == 8192
    whole = state_of(0, 1) | {"bias": COMMON["bias"] + 1, "scalar": np.array(4)}
    read_all(folder, whole)
    flip(base.data / "00002.bin", 0)
    with pytest.raises(DataDamaged, match=rf"{base.root.name}/d/00002.bin: chunk 0"):
        read_all(folder, whole)
    (base.root / "COMMIT.json").unlink()
    with pytest.raises(DataDamaged, match=r"COMMIT.json is missing"):
        read_all(folder, whole)


def test_a_base_is_looked_for_beside_every_copy(library: Library, tmp_path: Path) -> None:
    """A base that is damaged here is read there."""
    state = {"a": noise((9,), 1)}
    base = library.save(1, [state])
    folder = library.save(2, [state], on_base=True)
    shutil.copytree(base.root.parent, tmp_path / "partner")
    flip(base.data / "00000.bin", 3)
    told: list[Path] = []
    others = [GenerationPaths(tmp_path / "partner" / folder.root.name)]
    counters = read_all(folder, state, others=others, on_damage=lambda path, _: told.append(path))
    assert (counters.bytes_read, told) == ({"copy": 4096}, [base.data / "00000.bin"])


def test_a_reference_to_other_bytes_is_refused(library: Library) -> None:
    """Where the base holds something else under that name the diff does not fit it."""
    state = {"a": noise((9,), 1)}
    base = library.save(1, [state])
    folder = library.save(2, [state], on_base=True)
    shutil.rmtree(base.root)
    library.save(1, [{"a": noise((9,), 2)}])
    with pytest.raises(DataDamaged, match="does not hold the 'a'"):
        read_all(folder, state)
