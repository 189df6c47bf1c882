"""Every way to damage a checkpoint that the project promises to see: refused, and the previous one restores."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftslurm.checkpoint.commit import quarantine
from ftslurm.checkpoint.digest import digest_bytes
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.restore import Sources, materialise
from ftslurm.checkpoint.store import read_commit, read_latest, scan, seal, unseal, verify
from ftslurm.core.manifest import CHUNK_BYTES, Commit
from ftslurm.core.strictjson import encode
from ftslurm.errors import DataDamaged
from tests.checkpoint.world import AT, World, some_bytes

OLD, NEW = "000000010-0000", "000000020-0000"
BIG = "step_{}/rank_0.pt"
OTHER = "step_{}/rank_1.pt"
Damage = Callable[[GenerationPaths, random.Random], None]


def content(step: int) -> dict[str, dict[str, bytes]]:
    """Two nodes; files of two chunks and a bit, of equal size so that a swap keeps the sizes."""
    size = 2 * CHUNK_BYTES + 4321
    return {
        "n1": {BIG.format(step): some_bytes(size, step)},
        "n2": {OTHER.format(step): some_bytes(size, step + 1), f"step_{step}/small.json": b"{}"},
    }


@pytest.fixture
def world() -> Iterator[World]:
    """In memory where that is possible: these tests are about bytes, and fsync costs nothing there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield World(Path(folder))


@pytest.fixture
def saved(world: World) -> World:
    """Steps 10 and 20 are durable."""
    assert world.save(10, content(10)) == OLD
    assert world.save(20, content(20)) == NEW
    return world


def the_file(folder: GenerationPaths) -> Path:
    """The file that gets damaged."""
    return folder.data / BIG.format(int(folder.root.name.split("-")[0]))


def flip_one_bit(folder: GenerationPaths, rng: random.Random) -> None:
    """As a cosmic ray would."""
    data = bytearray(the_file(folder).read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    the_file(folder).write_bytes(data)


def truncate(folder: GenerationPaths, rng: random.Random) -> None:
    """Cut off at any place."""
    os.truncate(the_file(folder), rng.randrange(the_file(folder).stat().st_size))


def truncate_and_pad(folder: GenerationPaths, rng: random.Random) -> None:
    """Blocks that were never written come back as zeros, at full size."""
    size = the_file(folder).stat().st_size
    os.truncate(the_file(folder), rng.randrange(size - 1))
    os.truncate(the_file(folder), size)


def remove(folder: GenerationPaths, rng: random.Random) -> None:
    """The file is gone."""
    the_file(folder).unlink()


def append_chunk(folder: GenerationPaths, rng: random.Random) -> None:
    """More than was written."""
    with the_file(folder).open("ab") as file:
        file.write(rng.randbytes(CHUNK_BYTES))


def swap_chunks(folder: GenerationPaths, rng: random.Random) -> None:
    """All the right bytes, at the wrong places."""
    data = the_file(folder).read_bytes()
    first, second, rest = data[:CHUNK_BYTES], data[CHUNK_BYTES : 2 * CHUNK_BYTES], data[2 * CHUNK_BYTES :]
    the_file(folder).write_bytes(second + first + rest)


def swap_files(folder: GenerationPaths, rng: random.Random) -> None:
    """Two files of equal size under each other's names."""
    one, two = the_file(folder), the_file(folder).with_name("rank_1.pt")
    one.rename(one.with_name("x"))
    two.rename(one)
    one.with_name("x").rename(two)


def file_of_another_step(folder: GenerationPaths, rng: random.Random) -> None:
    """A shard of the previous checkpoint."""
    shutil.copy(the_file(GenerationPaths(folder.root.with_name(OLD))), the_file(folder))


def link_instead(folder: GenerationPaths, rng: random.Random) -> None:
    """A symbolic link to the very same bytes."""
    the_file(folder).rename(folder.root / "elsewhere")
    the_file(folder).symlink_to(folder.root / "elsewhere")


def linked_folder(folder: GenerationPaths, rng: random.Random) -> None:
    """A symbolic link on the way to the file."""
    the_file(folder).parent.rename(folder.root / "elsewhere")
    the_file(folder).parent.symlink_to(folder.root / "elsewhere")


def pipe_instead(folder: GenerationPaths, rng: random.Random) -> None:
    """Opening a pipe would wait for ever."""
    the_file(folder).unlink()
    os.mkfifo(the_file(folder))


def folder_instead(folder: GenerationPaths, rng: random.Random) -> None:
    """A folder where a file should be."""
    the_file(folder).unlink()
    the_file(folder).mkdir()


def edit_manifest(folder: GenerationPaths, rng: random.Random) -> None:
    """One character of a digest."""
    path = folder.manifests / "n1.json"
    record = json.loads(path.read_bytes())
    chunks = record["files"][0]["chunks"]
    record["files"][0]["chunks"] = ("0" if chunks[0] != "0" else "1") + chunks[1:]
    path.write_bytes(encode(record))


def edit_data_and_manifest(folder: GenerationPaths, rng: random.Random) -> None:
    """The manifest is made to agree with damaged data: only the commit knows."""
    flip_one_bit(folder, rng)
    data = the_file(folder).read_bytes()
    path = folder.manifests / "n1.json"
    record = json.loads(path.read_bytes())
    starts = range(0, len(data), CHUNK_BYTES)
    record["files"][0]["chunks"] = "".join(digest_bytes(data[start : start + CHUNK_BYTES]) for start in starts)
    path.write_bytes(encode(record))


def flip_in_manifest(folder: GenerationPaths, rng: random.Random) -> None:
    """A bit of the manifest, anywhere."""
    path = folder.manifests / "n2.json"
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def swap_manifests(folder: GenerationPaths, rng: random.Random) -> None:
    """Each node's manifest under the other's name."""
    one, two = folder.manifests / "n1.json", folder.manifests / "n2.json"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def remove_manifest(folder: GenerationPaths, rng: random.Random) -> None:
    """A manifest is gone."""
    (folder.manifests / "n2.json").unlink()


def remove_commit(folder: GenerationPaths, rng: random.Random) -> None:
    """Without COMMIT.json the generation was never finished."""
    folder.commit.unlink()


def truncate_commit(folder: GenerationPaths, rng: random.Random) -> None:
    """A torn COMMIT.json."""
    os.truncate(folder.commit, rng.randrange(folder.commit.stat().st_size - 1))


def flip_in_commit(folder: GenerationPaths, rng: random.Random) -> None:
    """A bit of COMMIT.json that changes what it says."""
    data = bytearray(folder.commit.read_bytes())
    data[rng.randrange(len(data) - 1)] ^= 1 << rng.randrange(7)
    folder.commit.write_bytes(data)


def commit_of_another_step(folder: GenerationPaths, rng: random.Random) -> None:
    """A sound COMMIT.json of another generation."""
    shutil.copy(folder.root.with_name(OLD) / "COMMIT.json", folder.commit)


def endless_commit(folder: GenerationPaths, rng: random.Random) -> None:
    """A COMMIT.json of 20 MB is not read into memory."""
    os.truncate(folder.commit, 20 << 20)


DAMAGES: list[Damage] = [
    truncate, truncate_and_pad, remove, append_chunk, swap_chunks, swap_files, file_of_another_step, link_instead,
    linked_folder, pipe_instead, folder_instead, edit_manifest, edit_data_and_manifest, flip_in_manifest,
    swap_manifests, remove_manifest, remove_commit, truncate_commit, flip_in_commit, commit_of_another_step,
    endless_commit,
]  # fmt: skip


def assert_previous_restores(world: World, *, use_scratch: bool) -> list[str]:
    """A restart gets step 10 with the bytes that were written; returns why not step 20."""
    generation, _, refusals = world.restore_newest("n3", use_scratch=use_scratch)
    assert generation == OLD
    world.assert_restored(OLD, "n3")
    assert refusals
    return refusals


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_restores(saved: World, damage: Damage) -> None:
    """Whatever happened to the newest checkpoint on shared storage, a node without a copy gets the one before."""
    damage(saved.paths.generation(NEW), random.Random(1))
    assert_previous_restores(saved, use_scratch=True)


@pytest.mark.parametrize("seed", range(25))
def test_every_flipped_bit_is_found(saved: World, seed: int) -> None:
    """One bit, anywhere in the data, is named with its file, chunk and both digests."""
    flip_one_bit(saved.paths.generation(NEW), random.Random(seed))
    verdict = verify(saved.store, NEW)
    assert [problem.name for problem in verdict.problems] == [BIG.format(20)]
    refusals = assert_previous_restores(saved, use_scratch=False)
    problem = verdict.problems[0]
    assert all(
        word in refusals[-1] for word in (BIG.format(20), f"chunk {problem.chunk}", problem.found, problem.wanted)
    )


@pytest.mark.parametrize("damage", [flip_one_bit, truncate, remove, link_instead, swap_chunks, append_chunk])
def test_a_damaged_copy_on_scratch_is_passed_over(saved: World, damage: Damage) -> None:
    """A node whose own copy is wrong takes shared storage's, and never shows the wrong bytes to the program."""
    damage(saved.scratch("n1").generation(NEW), random.Random(2))
    generation, result, refusals = saved.restore_newest("n1")
    assert (generation, refusals) == (NEW, [])
    assert result.source == "shared=3"
    saved.assert_restored(NEW, "n1")


@pytest.mark.parametrize("damage", [flip_one_bit, truncate, remove, edit_data_and_manifest])
def test_a_damaged_copy_on_shared_storage_is_passed_over(saved: World, damage: Damage) -> None:
    """The node's own copy, verified, saves a checkpoint whose shared copy of these bytes is wrong."""
    commit, _ = read_commit(saved.store, NEW)
    damage(saved.paths.generation(NEW), random.Random(3))
    own = saved.scratch("n1")
    materialise(commit, Sources(shared=saved.store, own=own.generations, patience_s=0), own.restores)
    saved.assert_restored(NEW, "n1")


def test_when_every_copy_is_wrong_the_generation_is_damaged(saved: World) -> None:
    """The refusal names what was wrong in each place."""
    flip_one_bit(saved.scratch("n1").generation(NEW), random.Random(4))
    flip_one_bit(saved.paths.generation(NEW), random.Random(5))
    commit, _ = read_commit(saved.store, NEW)
    own = saved.scratch("n1")
    with pytest.raises(DataDamaged) as caught:
        materialise(commit, Sources(shared=saved.store, own=own.generations, patience_s=0), own.restores)
    assert str(own.generations) in str(caught.value)
    assert str(saved.store) in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_scratch_damage_is_found_in_place(saved: World, damage: Damage) -> None:
    """Where the program reads shared storage itself, every byte was verified there before it got the path."""
    damage(saved.paths.generation(NEW), random.Random(6))
    generation = ""
    for stored in reversed(scan(saved.store).generations):
        try:
            result = materialise(stored.commit, Sources(shared=saved.store, patience_s=0), None)
        except DataDamaged:
            continue
        generation = stored.generation
        assert result.path == saved.paths.generation(OLD).data / "step_10"
        break
    assert generation == OLD


def forge(world: World, change: Callable[[dict], None]) -> None:
    """Change a manifest of step 20 and seal it again all the way up, as a forger or a bug of ours would."""
    folder = world.paths.generation(NEW)
    path = folder.manifests / "n1.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_bytes(json.dumps(record).encode("utf-8", "surrogatepass"))
    body = json.loads(folder.commit.read_bytes())["commit"]
    body["parts"][0]["manifest"] = digest_bytes(path.read_bytes())
    body["parts"][0]["files"] = len(record["files"])
    body["parts"][0]["size"] = sum(each["size"] for each in record["files"])
    folder.commit.write_bytes(seal(Commit.from_json(body))[0])


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../../secret", "a/../../b", "x\0y", "a\nb", "step_20/../../../m/n1.json"]
)
def test_a_path_out_of_the_folder_is_never_opened(saved: World, name: str) -> None:
    """A manifest with a hostile name is refused even when every digest agrees; nothing is written elsewhere."""
    forge(saved, lambda record: record["files"][0].update(name=name))
    before = sorted(str(path) for path in saved.root.rglob("*"))
    refusals = assert_previous_restores(saved, use_scratch=True)
    assert "file name" in refusals[0]
    after = {str(path) for path in saved.root.rglob("*")} - set(before)
    assert all("n3" in path for path in after)


@pytest.mark.parametrize("lie", [-1, 1, 10 * CHUNK_BYTES, -CHUNK_BYTES])
def test_a_size_that_lies_is_refused(saved: World, lie: int) -> None:
    """The size must fit the number of chunks and the file."""
    forge(saved, lambda record: record["files"][0].update(size=record["files"][0]["size"] + lie))
    assert_previous_restores(saved, use_scratch=True)


def test_a_name_that_is_listed_twice_is_refused(saved: World) -> None:
    """Two entries for one file would let the second hide the first."""
    forge(saved, lambda record: record["files"].append(record["files"][0]))
    assert "listed twice" in assert_previous_restores(saved, use_scratch=True)[0]


def test_two_nodes_with_different_content_under_one_name_are_refused(saved: World) -> None:
    """The union of the nodes has one content for each name, or the generation is refused."""
    forge(saved, lambda record: record["files"][0].update(name=OTHER.format(20)))
    assert "different content" in assert_previous_restores(saved, use_scratch=True)[0]


def test_a_damaged_generation_is_set_aside_and_kept(saved: World) -> None:
    """Quarantine moves every byte, says why beside it, and the store goes on without it."""
    flip_one_bit(saved.paths.generation(NEW), random.Random(7))
    before = the_file(saved.paths.generation(NEW)).read_bytes()
    place = quarantine(saved.store, NEW, "chunk 1 of rank_0.pt", AT)
    assert the_file(GenerationPaths(place)).read_bytes() == before
    assert json.loads(place.with_name(f"{NEW}.json").read_bytes())["reason"] == "chunk 1 of rank_0.pt"
    assert [each.generation for each in scan(saved.store).generations] == [OLD]
    assert quarantine(saved.store, NEW, "a second supervisor says so, too", AT).name == f"{NEW}.2"


def test_verify_names_every_damaged_chunk(saved: World) -> None:
    """Two bad chunks of one file and a missing other are three problems."""
    folder = saved.paths.generation(NEW)
    data = bytearray(the_file(folder).read_bytes())
    data[0] ^= 1
    data[-1] ^= 1
    the_file(folder).write_bytes(data)
    (folder.data / OTHER.format(20)).unlink()
    problems = [(problem.name, problem.chunk) for problem in verify(saved.store, NEW).problems]
    assert problems == [(BIG.format(20), 0), (BIG.format(20), 2), (OTHER.format(20), 0)]


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"generation":5}', b'{"generation":"../x"}', b"\xff" * 9000])
def test_a_damaged_reference_loses_nothing(saved: World, text: bytes) -> None:
    """refs/latest is a hint: whatever it says, the commits decide."""
    assert read_latest(saved.store) == NEW
    (saved.paths.references / "latest").write_bytes(text)
    assert read_latest(saved.store) == ""
    assert [each.generation for each in scan(saved.store).generations] == [OLD, NEW]


def test_a_listing_that_is_old_hides_no_checkpoint(saved: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What refs/latest or the caller names is found although a cached listing does not show it."""
    monkeypatch.setattr("ftslurm.checkpoint.disk.entries_of", lambda _: [])
    assert [each.generation for each in scan(saved.store).generations] == [NEW]
    assert [each.generation for each in scan(saved.store, known={OLD}).generations] == [OLD, NEW]
    found = scan(saved.store, known={"000000099-0000"})
    assert (len(found.generations), found.refused) == (1, ())


def test_a_seal_of_another_content_is_refused(saved: World) -> None:
    """The digest in COMMIT.json is that of its own body."""
    data = saved.paths.generation(NEW).commit.read_bytes()
    assert unseal(data, NEW)[0].world_size == 2
    with pytest.raises(DataDamaged, match="was changed"):
        unseal(data.replace(b'"world_size":2', b'"world_size":3'), NEW)
