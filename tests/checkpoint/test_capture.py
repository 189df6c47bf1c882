from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.checkpoint import capture as capture_module
from ftslurm.checkpoint.capture import Author, capture
from ftslurm.checkpoint.layout import ScratchPaths
from ftslurm.core.manifest import CHUNK_BYTES, NodeManifest
from ftslurm.errors import CannotCreate, DataDamaged, StorageError, TryAgain
from tests.checkpoint.world import RUN, World, some_bytes, step_files

NAME = "step_5/rank_0.pt"
AUTHOR = Author(run_id=RUN, attempt=3, node="n1", world_size=4)


def written(world: World, content: bytes = b"content", name: str = NAME) -> ScratchPaths:
    """The program has written one file of step 5."""
    scratch = world.scratch("n1")
    path = scratch.write / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return scratch


def test_a_capture_outlives_the_programs_own_file(world: World) -> None:
    """The program may delete its file at once: the captured one is a second name, not a copy."""
    scratch = written(world)
    inode = (scratch.write / NAME).stat().st_ino
    part = capture(step_files(scratch.write, 5, {NAME: 0}), scratch.write, scratch.generations, AUTHOR)
    (scratch.write / NAME).unlink()
    assert part.folder == scratch.generations / "000000005-0003"
    assert (part.folder / "d" / NAME).read_bytes() == b"content"
    assert (part.folder / "d" / NAME).stat().st_ino == inode
    assert (part.manifest.ranks, part.manifest.world_size) == ((0,), 4)


def test_the_digests_are_those_of_xxhsum(world: World) -> None:
    """Another program agrees on every chunk: the digests are plain XXH3 of 128 bits."""
    content = some_bytes(2 * CHUNK_BYTES + 100, 8)
    scratch = written(world, content)
    part = capture(step_files(scratch.write, 5, {NAME: 0}), scratch.write, scratch.generations, AUTHOR)
    try:
        asked = [
            subprocess.run(
                ["xxhsum", "-H2"], input=content[start : start + CHUNK_BYTES], capture_output=True, check=True
            )
            for start in range(0, len(content), CHUNK_BYTES)
        ]
    except FileNotFoundError:
        pytest.skip("no xxhsum here (apt-get install xxhash)")
    entry = part.manifest.files[0]
    assert [entry.chunk(index) for index in range(3)] == [answer.stdout.split()[0].decode() for answer in asked]


def test_a_second_capture_gives_the_first_again(world: World) -> None:
    """An agent that was started again reports the same part, not another."""
    scratch = written(world)
    found = step_files(scratch.write, 5, {NAME: 0})
    first = capture(found, scratch.write, scratch.generations, AUTHOR)
    assert capture(found, scratch.write, scratch.generations, AUTHOR) == first
    (scratch.write / NAME).write_bytes(b"changed")
    with pytest.raises(DataDamaged, match="captured already"):
        capture(step_files(scratch.write, 5, {NAME: 0}), scratch.write, scratch.generations, AUTHOR)


def test_a_file_that_changed_since_it_was_judged_is_refused(world: World) -> None:
    """Between the verdict and the capture the program wrote again: nothing is kept."""
    scratch = written(world)
    found = step_files(scratch.write, 5, {NAME: 0})
    (scratch.write / NAME).write_bytes(b"longer content")
    with pytest.raises(DataDamaged, match="changed before"):
        capture(found, scratch.write, scratch.generations, AUTHOR)
    assert not (scratch.generations / "000000005-0003" / "m" / "n1.json").exists()


@pytest.mark.parametrize("hide_time", [False, True])
def test_a_rewrite_in_place_while_it_is_captured_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, hide_time: bool
) -> None:
    """Also when the writer sets the modification time back, as `cp -p` and rsync do."""
    scratch = written(world, some_bytes(4 * CHUNK_BYTES, 1))
    path = scratch.write / NAME
    found = step_files(scratch.write, 5, {NAME: 0})
    real = capture_module.chunks_of
    rewrites = [1]

    def digest_and_rewrite(*args: object) -> str:
        digests = real(*args)
        if rewrites:
            rewrites.pop()
            before = path.stat()
            with path.open("r+b") as file:
                file.write(b"rewritten")
            if hide_time:
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return digests

    monkeypatch.setattr(capture_module, "chunks_of", digest_and_rewrite)
    with pytest.raises(DataDamaged, match="changed while"):
        capture(found, scratch.write, scratch.generations, AUTHOR)


def test_a_program_that_deletes_its_file_meanwhile_does_not_disturb(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing a name changes the file's ctime, not its content: it is read once more, and kept."""
    scratch = written(world)
    found = step_files(scratch.write, 5, {NAME: 0})
    real = capture_module.chunks_of

    def digest_and_delete(*args: object) -> str:
        digests = real(*args)
        (scratch.write / NAME).unlink(missing_ok=True)
        return digests

    monkeypatch.setattr(capture_module, "chunks_of", digest_and_delete)
    part = capture(found, scratch.write, scratch.generations, AUTHOR)
    assert (part.folder / "d" / NAME).read_bytes() == b"content"


def test_a_file_that_is_opened_for_writing_is_refused(world: World) -> None:
    """Whoever has it open now may change it later, behind the digests."""
    scratch = written(world)
    found = step_files(scratch.write, 5, {NAME: 0})
    with (scratch.write / NAME).open("r+b"), pytest.raises(DataDamaged, match="opened for writing"):
        capture(found, scratch.write, scratch.generations, AUTHOR)


def test_a_file_that_is_gone_or_became_a_link_is_refused(world: World) -> None:
    """What is captured is what was judged, or nothing."""
    scratch = written(world)
    found = step_files(scratch.write, 5, {NAME: 0})
    (scratch.write / NAME).rename(scratch.write / "aside")
    with pytest.raises(DataDamaged, match="gone before"):
        capture(found, scratch.write, scratch.generations, AUTHOR)
    (scratch.write / NAME).symlink_to(scratch.write / "aside")
    with pytest.raises(DataDamaged):
        capture(found, scratch.write, scratch.generations, AUTHOR)


def test_a_capture_can_be_stopped(world: World) -> None:
    """A node that must leave does not finish reading a large file first."""
    scratch = written(world)
    stop = threading.Event()
    stop.set()
    with pytest.raises(TryAgain):
        capture(step_files(scratch.write, 5, {NAME: 0}), scratch.write, scratch.generations, AUTHOR, stop=stop)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A second file system, with 4 MiB of room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    place = tmp_path / "other"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "none", str(place)], check=True, timeout=30)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)


def test_across_file_systems_it_is_copied(world: World, other_disk: Path) -> None:
    """Where no second name is possible, the bytes are; and they are those that were judged."""
    scratch = written(world, some_bytes(CHUNK_BYTES, 4))
    part = capture(step_files(scratch.write, 5, {NAME: 0}), scratch.write, other_disk / "gen", AUTHOR)
    assert (part.folder / "d" / NAME).read_bytes() == some_bytes(CHUNK_BYTES, 4)
    assert NodeManifest.from_bytes((part.folder / "m" / "n1.json").read_bytes()) == part.manifest


def test_a_full_scratch_is_an_error_of_the_storage(world: World, other_disk: Path) -> None:
    """ENOSPC is told as such, and leaves no manifest."""
    scratch = written(world, some_bytes(8 * CHUNK_BYTES, 4))
    with pytest.raises(StorageError, match="No space left"):
        capture(step_files(scratch.write, 5, {NAME: 0}), scratch.write, other_disk / "gen", AUTHOR)
    assert not list(other_disk.rglob("n1.json"))


def test_scratch_is_private_and_never_somebody_elses(tmp_path: Path) -> None:
    """Scratch is often world-writable: a folder of another user, or a link, is refused."""
    paths = ScratchPaths.of(tmp_path, RUN)
    paths.prepare()
    paths.root.chmod(0o777)
    paths.prepare()
    assert paths.root.stat().st_mode & 0o777 == 0o700
    link = ScratchPaths.of(tmp_path, "link")
    link.root.symlink_to(paths.root)
    with pytest.raises(CannotCreate):
        link.prepare()
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate):
        ScratchPaths.of(tmp_path / "file", RUN).prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_a_scratch_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Whoever made it first could read or swap the checkpoints."""
    paths = ScratchPaths.of(tmp_path, RUN)
    paths.root.mkdir()
    os.chown(paths.root, 65534, 65534)
    with pytest.raises(CannotCreate, match="not a folder of this user"):
        paths.prepare()
