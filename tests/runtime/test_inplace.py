"""Checkpoints in place: three agents, one folder of the program's own, and what every command leaves in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftslurm.checkpoint import retention, versions
from ftslurm.checkpoint.inherit import Heir, inherit
from ftslurm.checkpoint.inplace import Place
from ftslurm.checkpoint.inventory import Standing, inventory
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.readback import sample
from ftslurm.checkpoint.sealed import seal_record
from ftslurm.checkpoint.store import read_commit, read_stored, scan, verify
from ftslurm.core.actions import Quarantine
from ftslurm.core.events import RestoreReady, RestoreRefused
from ftslurm.core.manifest import generation_name
from ftslurm.core.retention import Rules
from ftslurm.errors import DataDamaged
from ftslurm.runtime.stores import Stores
from tests.runtime.sites import NODES, Site, digests
from tests.runtime.vaults import RUN, some_bytes


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """The program saves folders; ftslurm may not touch them."""
    return Site(tmp_path)


def test_a_save_is_digested_by_shares_and_read_again_by_others(site: Site) -> None:
    """All nodes vouch for the same; each digests a part; fewer nodes read all of it again, and hand the folder over."""
    site.write(5)
    parts = site.settle()
    assert [each.part.node for each in parts] == list(NODES)
    assert len({each.part.manifest_digest for each in parts}) == 1
    assert [each.part.files for each in parts] == [4, 0, 0]
    done = site.digest(5, parts=parts)
    assert sorted(each.part.files for each in done if each.part) == [1, 1, 2]
    assert not site.commit_of(5, done).error
    name = generation_name(5, 0)
    assert verify(site.store, name).ok
    assert sample(site.store, read_commit(site.store, name)[0]) == ""
    assert not (StorePaths(site.store).generation(name).data).exists()
    for event in site.restore(5, among=("n2", "n3")):
        assert isinstance(event, RestoreReady)
        assert event.path == str(site.folder / "step_5")


@pytest.mark.parametrize("victim", range(4))
def test_every_flipped_byte_is_found_by_somebody(site: Site, victim: int) -> None:
    """One byte of one file: one of the nodes refuses, and names the file; the others have read their shares."""
    site.write(5)
    site.commit(5)
    path = site.folder / f"step_5/{victim}.bin"
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    events = site.restore(5)
    (refused,) = [event for event in events if isinstance(event, RestoreRefused)]
    assert refused.damaged
    assert f"{victim}.bin" in refused.reason
    assert not verify(site.store, generation_name(5, 0)).ok


def test_what_changes_while_it_is_digested_is_passed_over(site: Site) -> None:
    """A file that is written again, with the same size, or removed: there is nothing to commit any more."""
    site.write(5)
    parts = site.settle()
    (site.folder / "step_5/3.bin").write_bytes(some_bytes(1000 + 3 * 700_000, 99))
    assert [each.damaged for each in site.digest(5, parts=parts)].count(True) == 1
    site.write(6)
    done = site.digest(6)
    (site.folder / "step_6/0.bin").unlink()
    durable = site.commit_of(6, done)
    assert (durable.gone, durable.digest) == (True, "")
    assert scan(site.store).generations == ()


def test_more_files_make_another_commit(site: Site) -> None:
    """A slow writer adds a file to what was committed: until it is digested anew the generation does not count."""
    site.write(5, count=3)
    site.commit(5)
    site.write(5, count=4)
    parts = [each for each in site.settle() if each.step == 5]
    assert len(parts) == 3
    with pytest.raises(DataDamaged):
        read_stored(site.store, generation_name(5, 0))
    done = site.digest(5, parts=parts[-1:])
    assert not site.commit_of(5, done).error
    assert len(read_stored(site.store, generation_name(5, 0)).files) == 4


def test_nothing_of_the_programs_is_ever_touched(site: Site, tmp_path: Path) -> None:
    """Commit, prune, quarantine, rollback, a new run's beginning: before and after, every file is the same file."""
    for step in (5, 6, 7, 8):
        site.write(step)
        site.commit(step, keep=3)
    (site.folder / "notes.txt").write_text("the user's own")
    (site.folder / "step_8/0.bin").write_bytes(b"damaged")
    before = digests(site.folder)
    inodes = {path: (path.stat().st_ino, path.stat().st_nlink) for path in site.folder.rglob("*")}
    assert [event for event in site.restore(8) if isinstance(event, RestoreRefused)]
    side = Stores(RUN, site.spec, 1, site.told.append, lambda: True)
    side.set_aside(Quarantine(generation=generation_name(8, 0), reason="damaged"))
    versions.roll_back(site.store, versions.find(site.store, "6"), attempt=0, now=2.0, reason="")
    assert retention.apply(site.store, Rules(last=1, abandoned=False), now=3.0)
    inherit(
        site.store, versions.find(site.store, "6"), Heir(root=tmp_path / "heir", run_id="heir-20260101-abcdef", now=4.0)
    )
    for agent in site.agents.values():
        agent.clean(generation_name(8, 0), ())
        agent.end(0, clean=False)
        agent.remove_scratch()
    assert digests(site.folder) == before
    assert {path: (path.stat().st_ino, path.stat().st_nlink) for path in site.folder.rglob("*")} == inodes


def test_the_program_removes_its_own(site: Site) -> None:
    """A checkpoint that the program has deleted is gone, not damaged; one that is half deleted is."""
    for step in (5, 6):
        site.write(step)
        site.commit(step)
    for path in (site.folder / "step_5").iterdir():
        path.unlink()
    (site.folder / "step_6/0.bin").unlink()
    assert [(row.step, row.standing) for row in inventory(site.store)] == [(5, Standing.GONE), (6, Standing.DAMAGED)]
    assert [(each.generation[:9], each.damaged) for each in scan(site.store).refused] == [
        ("000000005", False),
        ("000000006", True),
    ]


def test_a_save_that_is_written_again_replaces_the_record(site: Site) -> None:
    """The next attempt writes the same folder: the older record has nothing any more that it is about."""
    site.write(5)
    site.commit(5)
    site.begin(1)
    site.write(5, seed=1000)
    durable = site.commit(5, attempt=1)
    assert durable.dropped == (generation_name(5, 0),)
    assert [each.generation for each in scan(site.store).generations] == [generation_name(5, 1)]


def test_half_a_save_over_an_older_one_is_refused(site: Site) -> None:
    """Cut while it writes over its own older checkpoint: the mixture is neither the old one nor a new one."""
    site.write(4)
    site.commit(4)
    site.write(5)
    site.commit(5)
    site.begin(1)
    (site.folder / "step_5/2.bin").write_bytes(some_bytes(1000 + 2 * 700_000, 77))
    assert not site.settle()
    assert [event for event in site.restore(5) if isinstance(event, RestoreRefused) and event.damaged]
    assert all(isinstance(event, RestoreReady) for event in site.restore(4))


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Site]:
    """What the program has written may be removed and set aside."""
    return Site(tmp_path, {"manage": True})


def test_managed_files_go_with_their_records(managed: Site) -> None:
    """Old checkpoints are removed, and nothing else; a file that is another one now stays."""
    for step in (5, 6):
        managed.write(step)
        managed.commit(step)
    managed.begin(1)
    (managed.folder / "step_5/.mine").write_text("the user's own")
    (managed.folder / "step_5/1.bin").write_bytes(b"written again")
    managed.write(7)
    managed.commit(7, attempt=1, keep=1)
    left = sorted(str(path.relative_to(managed.folder)) for path in managed.folder.rglob("*") if path.is_file())
    assert left == ["step_5/.mine", "step_5/1.bin", *(f"step_7/{number}.bin" for number in range(4))]
    assert not (managed.folder / "step_6").exists()


def test_managed_damage_is_set_aside(managed: Site) -> None:
    """Where a program that looks for the newest does not find it; not what a later attempt has written there."""
    managed.write(5)
    managed.commit(5)
    (managed.folder / "step_5/0.bin").write_bytes(b"damaged")
    side = Stores(RUN, managed.spec, 1, managed.told.append, lambda: True)
    side.set_aside(Quarantine(generation=generation_name(5, 0), reason="damaged"))
    assert not (managed.folder / "step_5").exists()
    kept = managed.folder / ".ftslurm-quarantine" / generation_name(5, 0) / "step_5"
    assert sorted(path.name for path in kept.iterdir()) == [f"{number}.bin" for number in range(4)]


@pytest.mark.parametrize(
    "record",
    [
        {"folder": "relative", "files": {}},
        {"folder": 7, "files": {}},
        {"folder": "/x", "files": []},
        {"folder": "/x", "files": {"../y": [1, 2, 3]}},
        {"folder": "/x", "files": {"/y": [1, 2, 3]}},
        {"folder": "/x", "files": {"y": [1, 2]}},
        {"folder": "/x", "files": {"y": [1, 2, -3]}},
        {"folder": "/x", "files": {"y": [1, 2, True]}},
        {"folder": "/x"},
    ],
)
def test_a_place_is_distrusted(record: dict[str, object]) -> None:
    """Nothing that this program cannot have written is taken for a place; nor what was changed afterwards."""
    with pytest.raises(DataDamaged):
        Place.from_bytes(seal_record(record))


def test_a_changed_place_is_refused(site: Site) -> None:
    """PLACE.json has a seal: another folder in it makes the generation a damaged one."""
    site.write(5)
    site.commit(5)
    path = StorePaths(site.store).generation(generation_name(5, 0)).root / "PLACE.json"
    path.write_bytes(path.read_bytes().replace(b"lustre", b"elsewh"))
    assert [each.damaged for each in scan(site.store).refused] == [True]


def test_nobody_waits_for_the_storage_when_ranks_are_gone(site: Site) -> None:
    """After a fault the word that nothing is left does not wait for whoever looks at the folder just now."""
    site.write(5)
    agent = site.agents["n1"]
    with agent._lock:
        agent.end(0, clean=False)
    agent.end(0, clean=True)
    assert agent._watcher is None
