"""Every way to damage a checkpoint of the library: refused by the reader, and the previous good one is read instead."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftslurm.checkpoint.digest import digest_bytes, digests_of
from ftslurm.checkpoint.store import seal
from ftslurm.checkpoint.writer import WriteOptions
from ftslurm.core.manifest import CHUNK_BYTES, Commit
from ftslurm.core.strictjson import encode
from ftslurm.errors import DataDamaged
from tests.checkpoint.libraryworld import Library, places

OLD, NEW, DIFF = "000000010-0000", "000000020-0000", "000000030-0000"
ROWS = 2600
FILES = {
    "data": "d/00000.bin",
    "data of the last rank": "d/00001.bin",
    "index": "d/00000.json",
    "index of the last rank": "d/00001.json",
    "manifest": "m/rank-00000.json",
    "manifest of the last rank": "m/rank-00001.json",
    "commit": "COMMIT.json",
}
BINARY = ("d/00000.bin", "d/00001.bin")


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """Steps 10 and 20, with data files of several chunks. In memory where possible: these tests are about bytes."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = Library(Path(folder) / "pristine", ROWS).prepare()
        assert (made.save(10), made.save(20)) == (OLD, NEW)
        yield Path(folder)


@pytest.fixture
def library(pristine: Path) -> Iterator[Library]:
    """A copy to damage."""
    made = Library(pristine / "w", ROWS)
    shutil.copytree(pristine / "pristine", made.root)
    assert made.newest() == (NEW, [])
    yield made
    shutil.rmtree(made.root)


def refused(library: Library, *, good: str = OLD) -> str:
    """Assert that the previous one is read, with one line about each newer one; returns those lines."""
    generation, reasons = library.newest()
    assert generation == good
    assert reasons
    assert all(reason and "\n" not in reason and len(reason) < 2000 for reason in reasons)
    return " | ".join(reasons)


def why_not(library: Library, generation: str = NEW) -> str:
    """The reader's one line about a generation; cheaper than `refused`, because nothing else is read."""
    with pytest.raises(DataDamaged) as caught:
        library.check(library.paths(generation))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- flipped bits


CLASSES = (
    *("first byte of an entry", "middle of an entry", "last byte of an entry", "entry that spans chunks"),
    *("first byte of padding", "last byte of padding", "first byte of a chunk", "last byte of a chunk"),
)


def flip(path: Path, at: int, bit: int) -> None:
    """Once damages, twice heals."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_flipped_bit_of_the_data_is_found(library: Library, kind: str, rank: int) -> None:
    """Wherever it lies in relation to entries, padding and chunks; and the line names file and chunk."""
    path = library.paths(NEW).data / f"{rank:05d}.bin"
    found = places(library.index(NEW, rank))[kind]
    assert found
    for at in sorted(found):
        for bit in (0, 7):
            flip(path, at, bit)
            assert f"{rank:05d}.bin: chunk {at // CHUNK_BYTES}:" in why_not(library)
            flip(path, at, bit)
    assert library.newest() == (NEW, [])
    flip(path, min(found), 4)
    refused(library)


@pytest.mark.parametrize(
    "name", ["d/00000.json", "d/00001.json", "m/rank-00000.json", "m/rank-00001.json", "COMMIT.json"]
)
def test_a_flipped_bit_of_a_record_is_found(library: Library, name: str) -> None:
    """First, last, and every few bytes between, each with another bit."""
    path = library.paths(NEW).root / name
    size = path.stat().st_size
    for at in sorted({0, 1, size - 2, size - 1, *range(0, size, max(1, size // 60))}):
        flip(path, at, at % 8)
        why_not(library)
        flip(path, at, at % 8)
    assert library.newest() == (NEW, [])
    flip(path, size // 2, 4)
    refused(library)


# ------------------------------------------------------------------------------------------------ damage of any file

Damage = Callable[[Path, Path, Path], None]
"""(file, the same file of the previous generation, the other rank's file of this kind)"""


def missing(path: Path, old: Path, other: Path) -> None:
    """It is gone."""
    path.unlink()


def one_byte_short(path: Path, old: Path, other: Path) -> None:
    """The last byte is missing."""
    os.truncate(path, path.stat().st_size - 1)


def half(path: Path, old: Path, other: Path) -> None:
    """Cut in the middle."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path, old: Path, other: Path) -> None:
    """As after a power cut without fsync."""
    os.truncate(path, 0)


def longer(path: Path, old: Path, other: Path) -> None:
    """Something follows."""
    with path.open("ab") as file:
        file.write(b"\n")


def zeros(path: Path, old: Path, other: Path) -> None:
    """As long as it was, but nothing in it."""
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


def zeroed_page(path: Path, old: Path, other: Path) -> None:
    """One block was never written."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(bytes(min(4096, path.stat().st_size)))


def of_another_step(path: Path, old: Path, other: Path) -> None:
    """The same file of the previous checkpoint."""
    shutil.copy(old, path)


def of_another_rank(path: Path, old: Path, other: Path) -> None:
    """The other rank's under this rank's name."""
    shutil.copy(other, path)


def swapped(path: Path, old: Path, other: Path) -> None:
    """Each under the other's name."""
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


def linked(path: Path, old: Path, other: Path) -> None:
    """A symbolic link to the right bytes: nobody knows who else writes there."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def folder(path: Path, old: Path, other: Path) -> None:
    """A folder of this name."""
    path.unlink()
    path.mkdir()


DAMAGES: list[Damage] = [
    missing, one_byte_short, half, empty, longer, zeros, zeroed_page, of_another_step, of_another_rank, swapped, linked,
    folder,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES.values(), ids=list(FILES))
def test_a_damaged_file_is_found(library: Library, name: str, damage: Damage) -> None:
    """Whatever happened to whichever file, the reader refuses the generation, and the previous one is whole."""
    root = library.paths(NEW).root
    pair = name.replace("00001", "0000x").replace("00000", "00001").replace("0000x", "00000")
    if pair == name and damage in {of_another_rank, swapped}:
        pair = "m/rank-00000.json"  # a commit has no other; any other file serves
    damage(root / name, library.paths(OLD).root / name, root / pair)
    refused(library)


def test_all_data_of_another_step_is_found(library: Library) -> None:
    """Not one shard, but all of them, with sizes that fit."""
    for name in BINARY:
        shutil.copy(library.paths(OLD).root / name, library.paths(NEW).root / name)
    refused(library)


def test_a_generation_under_another_name_is_found(library: Library) -> None:
    """A folder that was copied, whole, to a later step is not a checkpoint of that step."""
    shutil.copytree(library.paths(OLD).root, library.paths(DIFF).root)
    assert f"COMMIT.json of {DIFF} is that of {OLD}" in refused(library, good=NEW)


# ------------------------------------------------------------------------------------------------- edited and sealed


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file, spelled as ours are."""
    record = json.loads(path.read_bytes())
    change(record)
    path.write_bytes(encode(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(world_size=1),
        lambda body: body.update(world_size=3),
        lambda body: body.update(generation=DIFF),
        lambda body: body.update(run_id="another"),
        lambda body: body.update(epoch=2),
        lambda body: body["parts"].pop(),
        lambda body: body["parts"].reverse(),
        lambda body: body["parts"][0].update(size=1),
        lambda body: body["parts"][0].update(manifest="0" * 32),
        lambda body: body["about"].update(reason="another"),
        lambda body: body["about"].update(metrics={"loss": 0.0}),
        lambda body: body.pop("about"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sealed", [False, True])
def test_an_edited_commit_is_found(library: Library, change: Callable, sealed: bool) -> None:
    """By its seal; and what a new seal hides is found where it contradicts the files."""
    path = library.paths(NEW).commit
    edit(path, lambda record: change(record["commit"]))
    if not sealed:
        refused(library)
        return
    body = json.loads(path.read_bytes())["commit"]
    body["parts"].sort(key=lambda part: part["node"])
    path.write_bytes(seal(Commit.from_json(body))[0])
    says_the_same = {"world_size": 2, "generation": NEW, "run_id": "toy-20260101-abcdef"}
    contradicts = says_the_same.items() - {key: body[key] for key in says_the_same}.items()
    parts = [part["manifest"] == "0" * 32 or part["size"] == 1 for part in body["parts"]]
    if contradicts or any(parts) or len(parts) != 2:
        refused(library)
    else:
        assert library.newest() == (NEW, [])  # nothing but the words about it: nobody can know


def reseal(library: Library, rank: int, *, commit: bool) -> None:
    """Make the manifest of a rank agree with its files, and the commit with the manifest, as a forger would."""
    paths = library.paths(NEW)
    path = paths.manifests / f"rank-{rank:05d}.json"

    def change(record: dict) -> None:
        for entry in record["files"]:
            data = (paths.data / entry["name"]).read_bytes()
            entry.update(size=len(data), chunks="".join(digests_of(memoryview(data))))

    edit(path, change)
    if commit:
        body = json.loads(paths.commit.read_bytes())["commit"]
        record = json.loads(path.read_bytes())
        body["parts"][rank].update(manifest=digest_bytes(path.read_bytes()))
        body["parts"][rank].update(size=sum(entry["size"] for entry in record["files"]))
        paths.commit.write_bytes(seal(Commit.from_json(body))[0])


EDITS: dict[str, Callable[[dict], object]] = {
    "rank": lambda index: index.update(rank=1),
    "step": lambda index: index.update(generation=DIFF),
    "run": lambda index: index.update(run_id="another"),
    "world": lambda index: index.update(world_size=3),
    "size": lambda index: index.update(size=index["size"] + 4096),
    "chunks": lambda index: index.update(chunks="0" * len(index["chunks"])),
    "no entries": lambda index: index.update(entries=[]),
    "entry gone": lambda index: index["entries"].pop(),
    "entry twice": lambda index: index["entries"].append(index["entries"][-1]),
    "entries swapped": lambda index: index["entries"].reverse(),
    "offset": lambda index: index["entries"][0].update(offset=4096),
    "overlap": lambda index: index["entries"][-1].update(offset=index["entries"][-2]["offset"]),
    "type": lambda index: index["entries"][-1].update(dtype="float64"),
    "same size, other type": lambda index: index["entries"][-1].update(dtype="int32"),
    "key": lambda index: index["entries"][-1].update(key="spreae"),
    "place": lambda index: index["entries"][-1].update(offsets=[1, 0]),
    "shape": lambda index: index["entries"][-1].update(shape=[9000, 96]),
    "kind": lambda index: index["entries"][-1].update(kind="rank"),
    "stale reference": lambda index: index["entries"][-1].update(stored=0, offset=0, base="000000005-0000"),
    "its own base": lambda index: index["entries"][-1].update(stored=0, offset=0, base=NEW),
}


@pytest.mark.parametrize("commit", [False, True], ids=["manifest sealed again", "commit sealed again"])
@pytest.mark.parametrize("name", EDITS)
def test_an_edited_index_is_found(library: Library, name: str, commit: bool) -> None:
    """By the digest that the manifest had; and where everything was sealed again, because it is no whole any more."""
    edit(library.paths(NEW).data / "00000.json", EDITS[name])
    reseal(library, 0, commit=commit)
    refused(library)


# -------------------------------------------------------------------------------------------------- what it refers to


@pytest.fixture
def diff(library: Library) -> Library:
    """Step 30 refers to step 20 for what never changes."""
    assert library.save(30, base=NEW) == DIFF
    assert library.newest() == (DIFF, [])
    assert sum(entry.is_reference for rank in (0, 1) for entry in library.index(DIFF, rank).entries) == 2
    return library


def test_a_damaged_base_takes_its_diff_along(diff: Library) -> None:
    """One bit that both need: both are refused, and the one before is read."""
    entry = next(entry for entry in diff.index(NEW, 0).entries if entry.key == "frozen")
    flip(diff.paths(NEW).data / "00000.bin", entry.offset + entry.stored // 2, 3)
    assert "00000.bin: chunk" in refused(diff)


@pytest.mark.parametrize("name", [*FILES.values(), "."])
def test_a_base_of_which_something_is_missing_takes_its_diff_along(diff: Library, name: str) -> None:
    """A file, or all of it."""
    path = diff.paths(NEW).root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(diff)


def test_another_generation_under_the_name_of_the_base_is_found(diff: Library) -> None:
    """It is sound, and committed; but it does not hold the bytes that the diff means."""
    shutil.rmtree(diff.paths(NEW).root)
    diff.seed = 1
    assert diff.save(20) == NEW
    generation, reasons = diff.newest()
    assert generation == NEW
    assert "does not hold" in reasons[0]


def test_a_damaged_part_of_the_base_that_the_diff_does_not_need_leaves_the_diff(diff: Library) -> None:
    """Only what is read counts: the diff has its own `spread`."""
    entry = next(entry for entry in diff.index(NEW, 1).entries if entry.key == "spread")
    flip(diff.paths(NEW).data / "00001.bin", entry.offset + entry.stored - 1, 0)
    assert diff.newest() == (DIFF, [])


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b'{"generation":"../../x"}', b'{"generation":"000000099-0000"}'])
def test_a_stale_reference_to_the_latest_changes_nothing(library: Library, text: bytes) -> None:
    """refs/latest is a hint: commits decide."""
    (library.store / "refs" / "latest").write_bytes(text)
    assert library.newest() == (NEW, [])
    library.paths(NEW).commit.unlink()
    assert library.newest()[0] == OLD


def test_damage_of_compressed_entries_is_found(library: Library) -> None:
    """At the places where it hurts a decompressor most."""
    library.options = WriteOptions(compression="zstd")
    name = library.save(40)
    index = library.index(name, 0)
    assert any(entry.encoding == "zstd" for entry in index.entries)
    for at in sorted(set().union(*places(index).values())):
        flip(library.paths(name).data / "00000.bin", at, at % 8)
        why_not(library, name)
        flip(library.paths(name).data / "00000.bin", at, at % 8)
    assert library.newest() == (name, [])
