from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ftslurm.checkpoint import refs, rollback, versions
from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.inventory import Standing, inventory
from ftslurm.checkpoint.store import read_latest, scan
from ftslurm.core.about import About
from ftslurm.errors import DataDamaged, StorageError, UsageError
from tests.checkpoint.world import AT, RUN, World


def save(world: World, step: int, attempt: int = 0, **metrics: float) -> str:
    """A durable generation of one small file, with what the program said of it."""
    prepare_store(world.store, RUN, AT)
    part = world.capture("n1", step, {f"step_{step}.pt": str(step).encode()}, attempt)
    assert drain_part(part.folder, "n1", Target(destination=str(world.store))).ok
    commit = replace(world.commit(step, {"n1": part}, attempt), about=About(reason="because", metrics=metrics))
    commit_durable(world.store, commit, patience_s=0)
    return commit.generation


@pytest.fixture
def store(world: World) -> World:
    """Steps 10, 20 and 30, of which 20 has the least loss."""
    for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0)):
        save(world, step, loss=loss)
    return world


def back(world: World, name: str) -> None:
    """Roll the store back."""
    target = versions.find(world.store, name)
    left = versions.left_behind(world.store, target)
    before = set(scan(world.store).abandoned)
    versions.roll_back(world.store, target, attempt=0, now=AT)
    assert set(scan(world.store).abandoned) - before == set(left)


# ---------------------------------------------------------------------------------------------------------------- tags


@pytest.mark.parametrize("name", ["good", "20", "000000020-0000"])
def test_names_of_a_generation(store: World, name: str) -> None:
    """A tag, a step and a generation's own name find the same one."""
    versions.tag(store.store, "good", "20", AT)
    assert versions.find(store.store, name).generation == "000000020-0000"


def test_a_tag_is_moved_only_when_that_is_meant(store: World) -> None:
    """Setting it again to the same generation is no change; to another one it needs a word."""
    versions.tag(store.store, "good", "20", AT)
    versions.tag(store.store, "good", "20", AT)
    with pytest.raises(UsageError, match="good names 000000020-0000 already"):
        versions.tag(store.store, "good", "30", AT)
    versions.tag(store.store, "good", "30", AT, move=True)
    assert versions.find(store.store, "good").generation == "000000030-0000"
    versions.untag(store.store, "good")
    with pytest.raises(UsageError, match="there is no checkpoint 'good'"):
        versions.find(store.store, "good")
    with pytest.raises(UsageError, match="there is no tag good"):
        versions.untag(store.store, "good")


@pytest.mark.parametrize(
    "name", ["latest", "best", "local", "", "a b", "../x", ".x", "-x", "5", "x.part", "x~", "000000020-0000", "x" * 65]
)
def test_what_cannot_be_a_tag(store: World, name: str) -> None:
    """Names that ftslurm uses itself, that mean a step, or that could leave the folder."""
    with pytest.raises(UsageError):
        versions.tag(store.store, name, "20", AT)


@pytest.mark.parametrize("name", ["40", "000000040-0000", "nothing", "../../x", "latest/..", "x\0y"])
def test_what_is_not_there(store: World, name: str) -> None:
    """One line, never a stranger's file."""
    with pytest.raises(UsageError):
        versions.find(store.store, name)


def test_a_reference_to_another_commit_is_refused(store: World) -> None:
    """The digest of the COMMIT decides, not the name of the generation."""
    ref = versions.tag(store.store, "good", "20", AT)
    refs.write(store.store, replace(ref, digest="0" * 32))
    with pytest.raises(DataDamaged, match="good was set to 000000020-0000 with digest 0000"):
        versions.find(store.store, "good")


@pytest.mark.parametrize(
    "change",
    [{"generation": "x"}, {"digest": "x"}, {"at": "x"}, {"name": "other"}, {"more": 1}],
)
def test_references_are_distrusted(store: World, change: dict) -> None:
    """Whatever is changed in a reference, the seal or a check says so."""
    versions.tag(store.store, "good", "20", AT)
    path = store.paths.references / "good"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, "record": {**content["record"], **change}}))
    with pytest.raises(DataDamaged):
        refs.read(store.store, "good")


def test_a_link_is_no_reference(store: World) -> None:
    """A symbolic link in refs/ is refused, wherever it leads."""
    versions.tag(store.store, "good", "20", AT)
    (store.paths.references / "evil").symlink_to(store.paths.references / "good")
    with pytest.raises(DataDamaged):
        versions.find(store.store, "evil")


# ------------------------------------------------------------------------------------------------------ latest and best


def test_latest_and_best_are_made_from_the_commits(store: World) -> None:
    """Lost, damaged or wrong: `refresh` lets them name what the COMMITs say."""
    versions.refresh(store.store, "loss", "min")
    assert versions.find(store.store, "best").generation == "000000020-0000"
    (store.paths.references / "best").write_bytes(b"x")
    (store.paths.references / "latest").unlink()
    assert [each.name for each in refs.listed(store.store)] == []
    versions.refresh(store.store, "loss", "max")
    assert versions.find(store.store, "best").generation == "000000010-0000"
    assert versions.find(store.store, "latest").generation == "000000030-0000"
    versions.refresh(store.store, "", "min")
    assert [each.name for each in refs.listed(store.store)] == ["latest"]


def test_best_needs_the_metric(store: World) -> None:
    """Where no save has told the metric, nothing is best."""
    versions.refresh(store.store, "accuracy", "max")
    assert [each.name for each in refs.listed(store.store)] == ["latest"]


def test_an_empty_store_has_no_references(world: World) -> None:
    """Before the first checkpoint there is nothing to name."""
    prepare_store(world.store, RUN, AT)
    versions.refresh(world.store, "loss", "min")
    assert refs.listed(world.store) == ()


# ------------------------------------------------------------------------------------------------------------ rollback


def test_a_rollback_deletes_nothing_and_hides_the_branch(store: World) -> None:
    """Newer generations are named as abandoned: not started from, not the latest, still there and still readable."""
    back(store, "10")
    found = scan(store.store)
    assert [each.generation for each in found.generations] == ["000000010-0000"]
    assert found.abandoned == ("000000020-0000", "000000030-0000")
    assert read_latest(store.store) == "000000010-0000"
    assert versions.find(store.store, "30").live is False
    assert {row.generation: row.standing for row in inventory(store.store)} == {
        "000000010-0000": Standing.DURABLE,
        "000000020-0000": Standing.ABANDONED,
        "000000030-0000": Standing.ABANDONED,
    }


def test_the_new_branch_counts(store: World) -> None:
    """A later attempt's generations are live although their steps are lower, also for `latest`, `best` and by step."""
    back(store, "10")
    new = save(store, 20, attempt=1, loss=9.0)
    assert read_latest(store.store) == new
    assert [each.generation for each in scan(store.store).generations] == ["000000010-0000", new]
    versions.refresh(store.store, "loss", "min")
    assert versions.find(store.store, "best").generation == "000000010-0000"
    assert versions.find(store.store, "20").generation == new
    back(store, "000000030-0000")
    assert scan(store.store).abandoned == (new,)


def test_what_is_known_from_elsewhere_is_abandoned_too(store: World) -> None:
    """A generation that only the nodes hold, of the abandoned branch, is named as such."""
    back(store, "10")
    assert "000000035-0000" in scan(store.store, ["000000035-0000", "000000012-0001"]).abandoned
    assert "000000012-0001" not in scan(store.store, ["000000035-0000", "000000012-0001"]).abandoned


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"record":{"rollbacks":[]},"seal":"0"}', b"\xff" * 9])
def test_a_damaged_record_stops_everything(store: World, text: bytes) -> None:
    """Nobody knows then what was abandoned: nothing is offered, nothing deleted."""
    back(store, "10")
    store.paths.rollbacks.write_bytes(text)
    for act in (scan, versions.versions, rollback.read_rollbacks):
        with pytest.raises(DataDamaged):
            act(store.store)


def test_a_store_that_cannot_be_read_is_one_error(store: World) -> None:
    """A file in place of the folder of references ends in StorageError."""
    for path in store.paths.references.iterdir():
        if path.is_file():
            path.unlink()
        else:
            path.rmdir()
    store.paths.references.rmdir()
    store.paths.references.write_bytes(b"")
    with pytest.raises(StorageError):
        refs.listed(store.store)
