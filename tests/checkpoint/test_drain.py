from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.checkpoint import drain as drain_module
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.drain import DrainReport, Target, Transport, drain_part
from ftslurm.checkpoint.store import verify
from ftslurm.core.manifest import CHUNK_BYTES
from ftslurm.errors import StorageError
from tests.checkpoint.parts import LIMIT_S, NAME, SIZE, arrived, part, target
from tests.checkpoint.world import AT, RUN, World, some_bytes


@pytest.mark.parametrize("transport", [Transport.AUTO, Transport.COPY, Transport.RSYNC])
def test_a_part_arrives_and_can_be_committed(world: World, transport: Transport) -> None:
    """Every byte is at the destination, under its name, with the manifest; the commit then holds."""
    files = {NAME: some_bytes(SIZE, 1), "step_5/with space 'quote' ünï": b"x", "step_5/deep/er/file": b"y" * 3}
    captured = part(world, files)
    report = drain_part(captured.folder, "n1", target(world, transport=transport))
    assert (report.error, report.manifest_digest) == ("", captured.digest)
    assert report.copied_bytes == captured.manifest.size_bytes
    assert {name: arrived(world, name) for name in files} == files
    commit_durable(world.store, world.commit(5, {"n1": captured}), patience_s=0)
    assert verify(world.store, "000000005-0000").ok


@pytest.mark.parametrize("transport", [Transport.COPY, Transport.RSYNC])
def test_a_second_drain_copies_nothing(world: World, transport: Transport) -> None:
    """What is right at the destination stays."""
    captured = part(world)
    drain_part(captured.folder, "n1", target(world))
    before = (world.paths.generation("000000005-0000").data / NAME).stat().st_ino
    report = drain_part(captured.folder, "n1", target(world, transport=transport))
    assert report.ok
    assert (world.paths.generation("000000005-0000").data / NAME).stat().st_ino == before


@pytest.mark.parametrize("transport", [Transport.COPY, Transport.RSYNC])
def test_wrong_bytes_at_the_destination_are_replaced(world: World, transport: Transport) -> None:
    """A file of equal size and newer time with wrong content is not taken for the right one."""
    captured = part(world)
    path = world.paths.generation("000000005-0000").data / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\0" * SIZE)
    own = captured.folder / "d" / NAME
    os.utime(path, ns=(own.stat().st_atime_ns, own.stat().st_mtime_ns))
    assert drain_part(captured.folder, "n1", target(world, transport=transport)).ok
    assert arrived(world) == some_bytes(SIZE, 5)


def test_a_source_that_changed_after_its_capture_is_not_carried_on(world: World) -> None:
    """An in-place rewrite of a hard-linked file is found while copying; it is damage, and not tried again."""
    captured = part(world)
    with (world.scratch("n1").write / NAME).open("r+b") as file:
        file.seek(3 * CHUNK_BYTES)
        file.write(b"other")
    report = drain_part(captured.folder, "n1", target(world, patience_s=60.0))
    assert report.damaged
    assert "chunk 3" in report.error
    assert not (world.paths.generation("000000005-0000").data / NAME).exists()
    assert not (world.paths.generation("000000005-0000").manifests / "n1.json").exists()


def test_a_missing_source_is_damage(world: World) -> None:
    """A scratch that lost the file will not get it back by waiting."""
    captured = part(world)
    (captured.folder / "d" / NAME).unlink()
    report = drain_part(captured.folder, "n1", target(world, patience_s=60.0))
    assert report.damaged
    assert drain_part(captured.folder, "n9", target(world)).damaged


def test_without_scratch_a_part_is_only_read_back(world: World) -> None:
    """What was captured on shared storage already lies there."""
    captured = part(world)
    store_like = Target(destination=str(world.scratch("n1").root), patience_s=0)
    report = drain_part(captured.folder, "n1", store_like)
    assert (report.ok, report.copied_bytes) == (True, 0)


# -------------------------------------------------------------------------------------------- killed, stopped, limited

DRAIN = """
import sys
from pathlib import Path
from ftslurm.checkpoint.drain import Target, drain_part
def told(done, total):
    print(done, flush=True)
report = drain_part(Path(sys.argv[1]), "n1", Target(destination=sys.argv[2], rate_limit=int(sys.argv[3])), progress=told)
sys.exit(0 if report.ok else 1)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_drain_that_is_killed_is_taken_up_again(world: World, seed: int) -> None:
    """SIGKILL at a random moment leaves no file that looks whole; the next drain uses what is right, and ends well."""
    captured = part(
        world, {NAME: some_bytes(40 * CHUNK_BYTES, seed), "step_5/b": some_bytes(9 * CHUNK_BYTES, seed + 1)}
    )
    argv = [sys.executable, "-c", DRAIN, str(captured.folder), str(world.store), str(60 * CHUNK_BYTES)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    # What was read is written 8 MiB at a time.
    for _ in range(random.Random(seed).randrange(20, 36)):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(LIMIT_S)
    process.stdout.close()
    data = world.paths.generation("000000005-0000").data
    whole = [path for path in data.rglob("*") if path.is_file() and not path.name.endswith(".part")]
    assert all(path.read_bytes() == world.contents["000000005-0000"][str(path.relative_to(data))] for path in whole)
    report = drain_part(captured.folder, "n1", target(world))
    assert report.ok
    assert 0 < report.copied_bytes < captured.manifest.size_bytes
    assert {name: arrived(world, name) for name in world.contents["000000005-0000"]} == world.contents["000000005-0000"]
    assert not list(data.rglob("*.part"))


def test_a_torn_part_file_is_used_only_as_far_as_it_is_right(world: World) -> None:
    """Zeros in the middle of what a crashed client left are found, and copied again from there."""
    captured = part(world)
    stop = threading.Event()
    drain_part(captured.folder, "n1", target(world), progress=lambda *_: stop.set(), stop=stop)
    left = next(world.paths.generation("000000005-0000").data.rglob("*.part"))
    content = bytearray(some_bytes(SIZE, 5))
    content[2 * CHUNK_BYTES + 5] ^= 1
    left.write_bytes(content)
    report = drain_part(captured.folder, "n1", target(world))
    assert (report.error, report.copied_bytes) == ("", SIZE - 2 * CHUNK_BYTES)
    assert arrived(world) == some_bytes(SIZE, 5)


def test_two_drains_of_one_part_do_not_mix(world: World) -> None:
    """An agent that was taken for dead may still be copying: the second waits for the first, and copies nothing."""
    captured = part(world)
    running = threading.Event()
    first = threading.Thread(
        target=lambda: drain_part(
            captured.folder, "n1", target(world, rate_limit=8 * CHUNK_BYTES), progress=lambda *_: running.set()
        )
    )
    first.start()
    assert running.wait(LIMIT_S)
    impatient = drain_part(captured.folder, "n1", target(world))
    assert "another process" in impatient.error
    patient = drain_part(captured.folder, "n1", target(world, patience_s=LIMIT_S))
    first.join(LIMIT_S)
    assert (patient.error, patient.copied_bytes) == ("", 0)
    assert arrived(world) == some_bytes(SIZE, 5)


def test_stopping_ends_soon_and_says_so(world: World) -> None:
    """A drain that waits for its rate limit stops within a moment."""
    captured = part(world)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    report = drain_part(captured.folder, "n1", target(world, rate_limit=1, patience_s=1e6), stop=stop)
    assert report.error == "stopped on request"


@pytest.mark.parametrize("transport", [Transport.COPY, Transport.RSYNC])
def test_the_rate_limit_holds(world: World, transport: Transport) -> None:
    """No faster than allowed (an upper bound on speed, so a slow machine cannot fail it)."""
    captured = part(world)
    limit = 16 * CHUNK_BYTES
    report = drain_part(captured.folder, "n1", target(world, rate_limit=limit, transport=transport))
    assert report.ok
    assert report.took_s >= 0.5 * SIZE / limit


def test_progress_reaches_the_end(world: World) -> None:
    """The last word is that all bytes are done."""
    told: list[tuple[int, int]] = []
    drain_part(part(world).folder, "n1", target(world), progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (SIZE, SIZE)
    assert told == sorted(told)


# ------------------------------------------------------------------------------------------------------- bad weather


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", str(place)], check=True, timeout=30)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=30)


@pytest.mark.parametrize("transport", [Transport.COPY, Transport.RSYNC])
def test_a_full_storage_is_told_and_waited_for(world: World, small_disk: Path, transport: Transport) -> None:
    """ENOSPC is an error in the report, not an exception; when there is room again the drain goes through."""
    captured = part(world)
    store = small_disk / "store"
    prepare_store(store, RUN, AT)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (5 * CHUNK_BYTES))
    goal = Target(destination=str(store), transport=transport, patience_s=0.0)
    report = drain_part(captured.folder, "n1", goal)
    assert (report.ok, report.damaged) == (False, False)
    assert "No space left" in report.error
    assert not (store / "gen/000000005-0000/m/n1.json").exists()
    threading.Timer(0.7, ballast.unlink).start()
    patient = Target(destination=str(store), transport=transport, patience_s=LIMIT_S)
    report = drain_part(captured.folder, "n1", patient)
    assert report.ok
    assert report.tries > 1
    assert (store / "gen/000000005-0000/d" / NAME).read_bytes() == some_bytes(SIZE, 5)


def test_a_failed_write_leaves_nothing_to_be_trusted(world: World, small_disk: Path) -> None:
    """After ENOSPC the temporary file is gone: the kernel reports a lost page only once."""
    store = small_disk / "store"
    prepare_store(store, RUN, AT)
    (small_disk / "ballast").write_bytes(b"x" * (5 * CHUNK_BYTES))
    assert not drain_part(part(world).folder, "n1", Target(destination=str(store), patience_s=0)).ok
    assert not list(store.rglob("*.part"))


def test_a_read_only_or_missing_destination_is_one_sentence(world: World, tmp_path: Path) -> None:
    """Storage that cannot be written ends in text."""
    captured = part(world)
    (tmp_path / "file").touch()
    report = drain_part(captured.folder, "n1", Target(destination=str(tmp_path / "file"), patience_s=0))
    assert "file" in report.error
    assert not report.damaged


@pytest.mark.parametrize("passes", [True, False])
def test_bad_weather_is_waited_for_and_then_told(passes: bool) -> None:
    """ESTALE is tried again until patience is over; what cannot heal is told at once."""
    import errno

    left = [1, 1] if passes else [1] * 1000

    def work() -> None:
        if left:
            left.pop()
            raise OSError(errno.ESTALE, "Stale file handle")

    if passes:
        assert drain_module._until_it_works(work, LIMIT_S, None) == 3
    else:
        with pytest.raises(OSError, match="Stale"):
            drain_module._until_it_works(work, 0.6, None)
        assert len(left) > 990


def test_a_refused_permission_is_not_tried_again() -> None:
    """Waiting does not change rights."""
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        drain_module._until_it_works(work, LIMIT_S, None)
    assert tries == [1]


def test_a_part_that_failed_makes_no_commit(world: World) -> None:
    """The commit needs every manifest on shared storage."""
    captured = part(world)
    with pytest.raises(StorageError, match="cannot commit"):
        commit_durable(world.store, world.commit(5, {"n1": captured}), patience_s=0)


def test_a_report_without_error_is_ok() -> None:
    """The one thing that callers look at."""
    assert DrainReport(generation="g", node="n").ok
    assert not DrainReport(generation="g", node="n", error="x").ok
