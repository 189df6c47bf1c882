from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from ftslurm.checkpoint import arrays, versions
from ftslurm.checkpoint.difference import compare, is_of_library
from ftslurm.checkpoint.export import export
from ftslurm.checkpoint.inherit import Heir, inherit
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.reader import Generation
from ftslurm.checkpoint.store import scan, verify
from ftslurm.errors import DataDamaged, UsageError
from tests.checkpoint.library import RUN, Library, spread
from tests.checkpoint.world import World

TENSORS = {
    "model.weight": np.arange(35, dtype="f4").reshape(7, 5),
    "model.half": np.arange(6, dtype="f2"),
    "model.flags": np.array([True, False]),
    "model.scalar": np.array(3, dtype="i8"),
    "model.none": np.zeros((0, 4), dtype="f8"),
    "optimizer.step": np.array([7.0], dtype="f8"),
}
NEW = "child-20260102-abcdef"


def states(world_size: int, **changes: np.ndarray) -> Sequence[arrays.State]:
    """What each rank has: the weight in rows, all else alike."""
    tensors = TENSORS | {name.replace("_", ".", 1): value for name, value in changes.items()}
    rows = spread(tensors["model.weight"], world_size)
    return [{**tensors, "model.weight": rows[rank]} for rank in range(world_size)]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A store with steps 1 (full, three ranks) and 2 (differential)."""
    library = Library(tmp_path / "store")
    library.save(1, states(3))
    library.save(2, states(3, model_half=np.ones(6, "f2")), on_base=True)
    return library


def folder_of(library: Library, step: int) -> Any:
    """The folder of a step."""
    return StorePaths(library.root).generation(f"{step:09d}-0000")


# -------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("step", [1, 2])
def test_safetensors_reads_what_was_saved(library: Library, tmp_path: Path, step: int) -> None:
    """The reference library finds every tensor of the model, bit for bit, whatever ranks and bases it lies in."""
    target = tmp_path / "model.safetensors"
    done = export(folder_of(library, step), target)
    found = load_file(target)
    wanted = TENSORS | ({"model.half": np.ones(6, "f2")} if step == 2 else {})
    wanted = {name.removeprefix("model."): value for name, value in wanted.items() if name.startswith("model.")}
    assert found.keys() == wanted.keys()
    assert done.tensors == len(wanted)
    assert done.size_bytes == target.stat().st_size
    for name, value in wanted.items():
        assert (found[name].dtype, found[name].shape, found[name].tobytes()) == (
            value.dtype,
            value.shape,
            value.tobytes(),
        )
    with safe_open(target, "numpy") as opened:
        assert opened.metadata()["ftslurm_generation"] == folder_of(library, step).root.name
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_all_tensors(library: Library, tmp_path: Path) -> None:
    """Without a prefix everything that is a common tensor is written, under its whole name."""
    export(folder_of(library, 1), tmp_path / "all.safetensors", prefix="")
    assert load_file(tmp_path / "all.safetensors").keys() == TENSORS.keys()


def test_damage_writes_nothing(library: Library, tmp_path: Path) -> None:
    """A flipped bit ends the export; an older file of the name stays as it was."""
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"older")
    data = folder_of(library, 1).data / "00001.bin"
    content = bytearray(data.read_bytes())
    content[3] ^= 1
    data.write_bytes(content)
    with pytest.raises(DataDamaged):
        export(folder_of(library, 1), target)
    assert target.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "store"]


def test_what_the_format_cannot_hold(tmp_path: Path) -> None:
    """A type without a name there, and nothing to write, are refused by name."""
    library = Library(tmp_path / "store")
    library.save(1, [{"model.wide": np.zeros(2, "c16")}])
    with pytest.raises(UsageError, match="'wide' of the type complex128 cannot stand in a safetensors file"):
        export(folder_of(library, 1), tmp_path / "x")
    with pytest.raises(UsageError, match=r"no tensors whose names begin with 'ema\.'"):
        export(folder_of(library, 1), tmp_path / "x", prefix="ema.")


# ---------------------------------------------------------------------------------------------------------- difference


def changes(library: Library, before: str, after: str) -> list[tuple[str, str]]:
    """Name and kind of each change."""
    found = compare(library.root, versions.find(library.root, before), versions.find(library.root, after))
    return [(each.name, each.what) for each in found.changes]


def test_only_what_changed_is_named(library: Library) -> None:
    """Of a differential save the changed tensor differs, references do not."""
    assert changes(library, "1", "2") == [("model.half", "content")]
    assert changes(library, "1", "1") == []


def test_forms_and_names(library: Library) -> None:
    """Another shape or type is a change of form; names come and go."""
    changed = [dict(state) for state in states(3, model_flags=np.zeros(3, bool), model_scalar=np.array(3, dtype="i4"))]
    for state in changed:
        del state["model.none"]
        state["model.more"] = np.zeros(1, "f4")
    library.save(3, changed)
    assert changes(library, "1", "3") == [
        ("model.flags", "form"),
        ("model.more", "added"),
        ("model.none", "removed"),
        ("model.scalar", "form"),
    ]


def test_other_ranks_are_no_difference(library: Library) -> None:
    """A tensor that is cut among other ranks is compared by its bytes."""
    library.save(4, states(2))
    assert changes(library, "1", "4") == []
    library.save(5, states(2, model_weight=np.zeros((7, 5), "f4")))
    assert changes(library, "1", "5") == [("model.weight", "content")]


def test_files_are_compared_by_name(world: World) -> None:
    """In the files layout names are files."""
    world.save(1, {"n1": {"a.pt": b"x", "b.pt": b"y"}})
    world.save(2, {"n1": {"a.pt": b"z", "c.pt": b"yy"}})
    found = compare(world.store, versions.find(world.store, "1"), versions.find(world.store, "2"))
    assert [(each.name, each.what) for each in found.changes] == [
        ("a.pt", "content"),
        ("b.pt", "removed"),
        ("c.pt", "added"),
    ]
    assert not is_of_library(world.store, versions.find(world.store, "1"))


# --------------------------------------------------------------------------------------------------------- inheritance


def test_a_run_begins_from_a_differential_checkpoint(library: Library, tmp_path: Path) -> None:
    """It is whole in the new store, under the new run's name, with its base, and reads the same."""
    heir = Heir(root=tmp_path / "child", run_id=NEW, now=5.0)
    version = versions.find(library.root, "2")
    assert inherit(library.root, version, heir) == "000000002-0000"
    found = scan(heir.root)
    assert [each.generation for each in found.generations] == ["000000001-0000", "000000002-0000"]
    assert all(verify(heir.root, each.generation).ok for each in found.generations)
    commit = found.generations[-1].commit
    assert (commit.run_id, commit.about.parent) == (NEW, "000000002-0000")
    assert commit.about.reason == f"from run {RUN}, 000000002-0000"
    assert (commit.about.kind, commit.about.base) == ("diff", "000000001-0000")
    export(StorePaths(heir.root).generation("000000002-0000"), tmp_path / "child.safetensors")
    export(folder_of(library, 2), tmp_path / "parent.safetensors")
    ours, theirs = (load_file(tmp_path / f"{name}.safetensors") for name in ("child", "parent"))
    assert {name: value.tobytes() for name, value in ours.items()} == {
        name: value.tobytes() for name, value in theirs.items()
    }
    with Generation.open(StorePaths(heir.root).generation("000000002-0000")) as opened:
        assert opened.whole.run_id == NEW
    assert inherit(library.root, version, heir) == "000000002-0000"


def test_attempts_begin_anew(world: World, tmp_path: Path) -> None:
    """A checkpoint of attempt 3 is one of attempt 0 in the new run, so that a later attempt is always newer."""
    world.save(7, {"n1": {"d/a.pt": b"weights"}, "n2": {"d/b.pt": b"more"}}, attempt=3)
    heir = Heir(root=tmp_path / "child", run_id=NEW, now=5.0)
    assert inherit(world.store, versions.find(world.store, "7"), heir) == "000000007-0000"
    assert verify(heir.root, "000000007-0000").ok
    folder = StorePaths(heir.root).generation("000000007-0000")
    assert {path.name: path.read_bytes() for path in (folder.data / "d").iterdir()} == {
        "a.pt": b"weights",
        "b.pt": b"more",
    }


def test_a_damaged_checkpoint_is_no_beginning(library: Library, tmp_path: Path) -> None:
    """One flipped bit in the base is enough: no COMMIT comes into being for what needs it."""
    data = folder_of(library, 1).data / "00002.bin"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    heir = Heir(root=tmp_path / "child", run_id=NEW, now=5.0)
    with pytest.raises(DataDamaged):
        inherit(library.root, versions.find(library.root, "2"), heir)
    assert scan(heir.root).generations == ()


@pytest.mark.parametrize("name", ["00001.json", "00001.bin"])
def test_a_missing_file_is_one_line(library: Library, tmp_path: Path, name: str) -> None:
    """It is damage, with the name of what is missing."""
    (folder_of(library, 1).data / name).unlink()
    with pytest.raises(DataDamaged, match=name.replace(".", r"\.")):
        inherit(library.root, versions.find(library.root, "1"), Heir(root=tmp_path / "child", run_id=NEW, now=5.0))


def test_a_store_in_use_is_refused(library: Library, world: World) -> None:
    """A run that has checkpoints of its own does not begin again."""
    world.save(9, {"n1": {"a.pt": b"x"}})
    with pytest.raises(UsageError, match="has checkpoints already"):
        inherit(library.root, versions.find(library.root, "1"), Heir(root=world.store, run_id=NEW, now=5.0))
