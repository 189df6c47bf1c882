from __future__ import annotations

import os

import pytest

from ftslurm.errors import UsageError
from ftslurm.faults import litter
from ftslurm.faults.damage import Wanted, damage, newest
from ftslurm.faults.deeds import Way
from ftslurm.paths import RunPaths

NAME = "000000020-0000"


@pytest.fixture
def paths(tmp_path):
    """A run with two committed checkpoints of two files and one that is not committed."""
    paths = RunPaths(tmp_path / "run")
    for name in ("000000010-0000", NAME, "000000030-0000"):
        generation = paths.checkpoints / "gen" / name
        (generation / "d").mkdir(parents=True)
        (generation / "m").mkdir()
        (generation / "d/large.pt").write_bytes(bytes(range(256)) * 64)
        (generation / "d/small.pt").write_bytes(b"small")
        (generation / "d/large.pt").chmod(0o400)
        (generation / "m/n1.json").write_text('{"digest":"abc123"}')
        if name <= NAME:
            (generation / "COMMIT.json").write_text("{}")
    return paths


def content(paths, name=NAME):
    """All bytes of a generation."""
    folder = paths.checkpoints / "gen" / name
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("way", "changed"),
    [
        (Way.FLIP, {"d/large.pt"}),
        (Way.TRUNCATE, {"d/large.pt"}),
        (Way.ZERO, {"d/large.pt"}),
        (Way.SWAP, {"d/large.pt", "d/small.pt"}),
        (Way.DROP, {"d/large.pt"}),
        (Way.MANIFEST, {"m/n1.json"}),
    ],
)
def test_the_newest_committed_checkpoint_is_another_one(paths, way, changed):
    """What was meant, and nothing else; the damage is said."""
    before, older = content(paths), content(paths, "000000010-0000")
    wanted = newest(paths)
    assert (wanted.generation, wanted.file) == (NAME, "large.pt")
    (said,) = damage(wanted, way)
    assert str(paths.checkpoints) in said
    after = content(paths)
    assert {name for name in before if before[name] != after.get(name)} == changed
    assert content(paths, "000000010-0000") == older


def test_one_bit_of_every_copy_flips_once(paths, tmp_path):
    """Two names of one file are one copy, and a flip of both would be none; what was handed out stays."""
    scratch = tmp_path / "scratch"
    source = paths.checkpoints / "gen" / NAME / "d/large.pt"
    for place in ("gen", "partner/n2/gen", "restore"):
        (scratch / place / NAME / "d").mkdir(parents=True)
    os.link(source, scratch / "gen" / NAME / "d/large.pt")
    for place in ("partner/n2/gen", "restore"):
        (scratch / place / NAME / "d/large.pt").write_bytes(source.read_bytes())
    before = source.read_bytes()
    wanted = Wanted(folders=(paths.checkpoints, scratch), generation=NAME, file="large.pt")
    assert len(damage(wanted, Way.FLIP)) == 2
    for path in (source, scratch / "partner/n2/gen" / NAME / "d/large.pt"):
        assert sum((one ^ two).bit_count() for one, two in zip(before, path.read_bytes(), strict=True)) == 1
    assert (scratch / "restore" / NAME / "d/large.pt").read_bytes() == before
    assert source.stat().st_mode & 0o777 == 0o400


def test_zeros_are_not_replaced_by_zeros(paths):
    """A page that is zero already becomes another one: a damage that changes nothing would test nothing."""
    path = paths.checkpoints / "gen" / NAME / "d/large.pt"
    path.chmod(0o600)
    path.write_bytes(bytes(20_000))
    damage(newest(paths), Way.ZERO)
    assert path.read_bytes() != bytes(20_000)


def test_what_cannot_be_damaged_is_said(paths, tmp_path):
    """No checkpoint, or nothing to change places with."""
    with pytest.raises(UsageError, match="no checkpoint"):
        newest(RunPaths(tmp_path / "other"))
    (paths.checkpoints / "gen" / NAME / "d/small.pt").unlink()
    with pytest.raises(UsageError, match="one file only"):
        damage(newest(paths), Way.SWAP)


def test_litter_is_removed_and_nothing_else(paths):
    """All of it, by its mark."""
    paths.requests.mkdir(parents=True)
    (paths.requests / "save-1").touch()
    before = {path for path in paths.root.rglob("*") if path.is_file()}
    assert litter.scatter(paths, "abc").startswith("40 files")
    assert len([path for path in paths.root.rglob("*") if "abc" in path.name]) == 40
    litter.collect(paths, "abc")
    assert {path for path in paths.root.rglob("*") if path.is_file() or path.is_symlink()} == before
