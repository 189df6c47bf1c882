"""Parts that go packed to shared storage, and come back from there or from the nodes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.reader import Generation, Want
from ftslurm.core.about import About, SaveKind
from ftslurm.core.actions import Whereabouts
from ftslurm.core.events import PartDrained, RestoreReady, RestoreRefused
from ftslurm.core.manifest import Commit
from ftslurm.errors import StorageError
from tests.checkpoint.packable import FAST, SLOW
from tests.runtime.vaults import RUN, Cluster, some_bytes

np = pytest.importorskip("numpy")
pytest.importorskip("zstandard")

G5, G6 = "000000005-0000", "000000006-0000"
DIFF = About(kind=SaveKind.DIFF, base=G5)
SIZE = 300_000


def similar(size: int, step: int, rank: int) -> bytes:
    """What a rank holds: a step changes little of it."""
    data = bytearray(some_bytes(size, rank))
    data[step::1000] = bytes(len(data[step::1000]))
    return bytes(data)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four nodes with a rank each, that may pack."""
    found = Cluster(tmp_path, delta="auto")
    found.content = similar
    prepare_store(found.store, RUN, 1.0)
    yield found
    found.close()


def drained(cluster: Cluster, where: Whereabouts, *, base: str = "", account: object = SLOW) -> list[PartDrained]:
    """Every node drains its part; the scratch of a test is no slow link, so it is told what the link is like."""
    told = []
    for part in where.parts:
        keeper = cluster.nodes[part.node].keeper
        keeper._drains._account = account
        told.append(keeper.drain(where.generation, part.node, base))
        assert not told[-1].error, told[-1]
    return told


def committed(cluster: Cluster, where: Whereabouts, told: list[PartDrained]) -> Whereabouts:
    """COMMIT names what was brought; returns where the generation is now."""
    parts = tuple(each.part for each in told if each.part)
    commit = Commit(
        run_id=RUN, generation=where.generation, world_size=where.world_size, epoch=1, parts=parts, about=where.about
    )
    commit_durable(cluster.store, commit, patience_s=0)
    return replace(where, packed=parts != where.parts)


def saved(cluster: Cluster) -> tuple[Whereabouts, Whereabouts]:
    """A base that went as it was, and a difference that went packed; both are durable."""
    base = cluster.save(5, SIZE)
    base = committed(cluster, base, drained(cluster, base, account=FAST))
    where = cluster.save(6, SIZE, DIFF)
    told = drained(cluster, where, base=G5)
    assert all(each.part not in where.parts for each in told)
    assert all(each.reason for each in told)
    return base, committed(cluster, where, told)


def loaded(cluster: Cluster, name: str, folder: str) -> None:
    """Every byte of every rank is what was saved, read through what the node has at hand and fetches."""
    keeper = cluster.nodes[name].keeper
    with Generation.open(GenerationPaths(Path(folder)), fetch=lambda *asked: keeper.fetch(*asked)[0]) as found:
        for rank in range(4):
            place = np.zeros(SIZE, np.uint8)
            found.read([Want(key="w", offsets=(SIZE * rank,), sizes=(SIZE,), into=place)])
            assert place.tobytes() == similar(SIZE, found.commit.step, rank)


def test_restored_as_the_nodes_have_it(cluster: Cluster) -> None:
    """Nothing comes from shared storage, whatever form it has there."""
    base, where = saved(cluster)
    shutil.rmtree(cluster.store / "gen")
    ready = cluster.nodes["n1"].keeper.restore((where, base), G6, 1)
    assert isinstance(ready, RestoreReady), ready
    loaded(cluster, "n1", ready.path)


@pytest.mark.parametrize("known", ["nobody", "stale"])
def test_restored_as_it_is_committed(cluster: Cluster, known: str) -> None:
    """Where the nodes lack a part, or have lost it without a word; their own files of it are left alone."""
    base, where = saved(cluster)
    cluster.kill("n3")
    node = cluster.nodes["n1"]
    shutil.rmtree(cluster.nodes["n2"].scratch / "gen" / G6)
    wanted = {"nobody": (cluster.alive(base),), "stale": (where, base)}[known]
    ready = node.keeper.restore(wanted, G6, 1)
    assert isinstance(ready, RestoreReady), ready
    assert "shared" in ready.source
    loaded(cluster, "n1", ready.path)
    assert not list((node.scratch / "quarantine").iterdir())
    assert (node.scratch / "gen" / G6 / "d" / "00000.bin").stat().st_size >= SIZE


def test_what_no_node_answers_for_is_not_damaged_before_it_is_committed(cluster: Cluster) -> None:
    """A part is packed already, COMMIT is not there yet: try again."""
    base, where = saved(cluster)
    (cluster.store / "gen" / G6 / "COMMIT.json").unlink()
    cluster.kill("n3")
    for wanted in ((cluster.alive(base),), (where, base)):
        refused = cluster.nodes["n1"].keeper.restore(wanted, G6, 1)
        assert isinstance(refused, RestoreRefused)
        assert not refused.damaged, refused.reason


def test_a_file_that_cannot_be_fetched_is_had_as_committed_the_next_time(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node is lost after its index was read: shared storage has no such file, and that is no damage."""
    monkeypatch.setattr("ftslurm.runtime.libsaver.FETCH_PATIENCE_S", 0.0)
    base, where = saved(cluster)
    keeper = cluster.nodes["n1"].keeper
    assert isinstance(keeper.restore((where, base), G6, 1), RestoreReady)
    cluster.kill("n3")
    with pytest.raises(StorageError):
        keeper.fetch(G6, "00002.bin")
    ready = keeper.restore((where, base), G6, 2)
    assert isinstance(ready, RestoreReady), ready
    loaded(cluster, "n1", ready.path)


def test_a_holder_packs_for_an_owner_that_is_gone(cluster: Cluster) -> None:
    """Its copies of the owner's part and of the base are enough."""
    base = cluster.copy(cluster.save(5, SIZE))
    committed(cluster, base, drained(cluster, base, account=FAST))
    where = cluster.copy(cluster.save(6, SIZE, DIFF))
    cluster.kill("n3")
    keeper = cluster.nodes["n1"].keeper
    keeper._drains._account = SLOW
    told = keeper.drain(G6, "n3", G5)
    assert told.part is not None, told
    assert told.part.node == "n3"
    assert told.part.size_bytes < where.parts[2].size_bytes


def test_packed_parts_leave_scratch_with_the_watermark(cluster: Cluster) -> None:
    """The newest one stays until it was read again; what is being drained stays in any case."""
    saved(cluster)
    node = cluster.nodes["n1"]
    packed = node.scratch / "packed" / "n1" / "gen"
    node.keeper.clean(G6, ())
    assert [path.name for path in packed.iterdir()] == [G6]
    node.keeper.clean("000000007-0000", (G6,))
    assert [path.name for path in packed.iterdir()] == [G6]
    node.keeper.clean("000000007-0000", ())
    assert not list(packed.iterdir())


def test_a_further_copy_is_of_what_was_drained(tmp_path: Path) -> None:
    """The second place has the same bytes as the first."""
    cluster = Cluster(tmp_path, delta="auto", drain_to=str(tmp_path / "second"))
    cluster.content = similar
    try:
        prepare_store(cluster.store, RUN, 1.0)
        saved(cluster)
        for name in ("d/00000.bin", "d/00000.json", "m/n1.json"):
            here, there = (root / "gen" / G6 / name for root in (cluster.store, tmp_path / "second"))
            assert here.read_bytes() == there.read_bytes()
    finally:
        cluster.close()
