from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.checkpoint.commit import commit_durable, prepare_store
from ftslurm.checkpoint.handover import AgentClient, Op
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.store import seal, unseal
from ftslurm.core.about import About, SaveKind
from ftslurm.core.actions import Pair
from ftslurm.core.events import PartSaved, RestoreReady, RestoreRefused
from ftslurm.core.manifest import CHUNK_BYTES, Commit
from ftslurm.errors import DataDamaged
from ftslurm.runtime.storesocket import StoreSocket
from ftslurm.runtime.transfer import PeerPart, StoreServer
from tests.runtime.vaults import RUN, WHO, Cluster, some_bytes, write_rank

G5 = "000000005-0000"
SIZE = 3 << 20


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Four nodes with a rank each."""
    found = Cluster(tmp_path)
    yield found
    found.close()


def flip(path: Path, place: int = CHUNK_BYTES + 7) -> None:
    """Change one byte, in a file that may have other names."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def data_of(folder: Path, rank: int) -> bytes:
    """The data file of a rank."""
    return (folder / "d" / f"{rank:05d}.bin").read_bytes()


def test_part_is_told_when_every_rank_of_the_node_has_finished(cluster: Cluster) -> None:
    """One rank's index is not enough; the second one's makes the part, with what rank 0 tells."""
    keeper = cluster.nodes["n1"].keeper
    keeper.begin(0, 2)
    keeper.expect(0, frozenset({0, 1}))
    folder = keeper.folder / G5
    write_rank(folder, G5, 0, some_bytes(100, 0), 2, About(reason="time", metrics={"loss": 0.5}))
    keeper._scan()
    assert cluster.nodes["n1"].said == []
    write_rank(folder, G5, 1, some_bytes(100, 1), 2)
    keeper._scan()
    keeper._scan()
    (saved,) = cluster.nodes["n1"].said
    assert isinstance(saved, PartSaved)
    assert (saved.part.ranks, saved.part.files, saved.world_size) == ((0, 1), 4, 2)
    assert saved.about is not None
    assert saved.about.metrics == {"loss": 0.5}


def test_what_an_attempt_leaves_unfinished_is_dropped(cluster: Cluster) -> None:
    """When the attempt ends: the finished generation stays, the half one goes; late files of it are not met again."""
    where = cluster.save(5, 1000)
    keeper = cluster.nodes["n1"].keeper
    write_rank(keeper.folder / "000000006-0000", "000000006-0000", 3, b"x" * 10, 4)
    keeper.end(0, clean=False)
    assert [path.name for path in keeper.folder.iterdir()] == [where.generation]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: write_rank(folder, "000000007-0000", 0, b"x" * 5000, 4),
        lambda folder: write_rank(folder, G5, 0, b"x" * 5000, 3),
        lambda folder: (folder / "00000.bin").write_bytes(b"short"),
        lambda folder: (folder / "00000.json").write_bytes(b"{}"),
    ],
    ids=["another generation", "another world", "wrong size", "no index"],
)
def test_what_the_library_cannot_have_written_is_not_taken(cluster: Cluster, spoil) -> None:
    """A part is told only when index, name and size belong together."""
    node = cluster.nodes["n1"]
    node.keeper.begin(0, 4)
    node.keeper.expect(0, frozenset({0}))
    folder = node.keeper.folder / G5
    write_rank(folder, G5, 0, b"y" * 5000, 4)
    spoil(folder)
    node.keeper._scan()
    assert node.said == []


def test_a_copy_is_the_owner_s_part(cluster: Cluster) -> None:
    """Byte for byte, with its manifest; taking it again moves nothing."""
    where = cluster.copy(cluster.save(5))
    copy = cluster.nodes["n3"].keeper.tree(G5, "n1")
    assert copy is not None
    assert data_of(copy.root, 0)[:SIZE] == some_bytes(SIZE, 5)
    assert (copy.manifests / "n1.json").is_file()
    again = cluster.copy(where)
    assert again == where


def test_a_copy_that_was_cut_short_goes_on_where_it_was(cluster: Cluster) -> None:
    """What a killed agent has left is used, as far as it is right; the manifest comes last."""
    where = cluster.save(5)
    target = cluster.nodes["n3"].keeper.tree(G5, "n1")
    assert target is not None
    cluster.copy(where)
    (target.manifests / "n1.json").unlink()
    (target.data / "00000.bin").write_bytes(data_of(target.root, 0)[: 2 * CHUNK_BYTES])
    cluster.copy(where)
    assert data_of(target.root, 0)[:SIZE] == some_bytes(SIZE, 5)
    assert not list(target.data.glob("*.part"))


def test_a_wrong_source_is_never_copied(cluster: Cluster) -> None:
    """A byte that has changed on the owner's disk does not reach the partner."""
    where = cluster.save(5)
    flip(cluster.nodes["n1"].scratch / "gen" / G5 / "d" / "00000.bin")
    pair = Pair(owner="n1", holder="n3", digest=where.parts[0].manifest_digest, sources=("n1",))
    done = cluster.nodes["n3"].keeper.replicate(G5, pair)
    assert "chunk 1: wrong bytes" in done.error
    copy = cluster.nodes["n3"].keeper.tree(G5, "n1")
    assert copy is not None
    assert not (copy.data / "00000.bin").exists()


def test_survivors_restore_from_the_nodes_alone(cluster: Cluster) -> None:
    """Indexes and manifests of all, links to own and partner's data, the rest on request; there is no shared storage."""
    where = cluster.copy(cluster.save(5))
    cluster.kill("n3")
    where = cluster.alive(where)
    for name in ("n1", "n2", "n4"):
        keeper = cluster.nodes[name].keeper
        ready = keeper.restore((where,), G5, 1)
        assert isinstance(ready, RestoreReady), ready
        folder = Path(ready.path)
        assert {path.name for path in (folder / "m").iterdir()} == {"n1.json", "n2.json", "n3.json", "n4.json"}
        assert {path.name for path in (folder / "d").glob("*.json")} == {f"{rank:05d}.json" for rank in range(4)}
        assert unseal((folder / "COMMIT.json").read_bytes(), G5)[0].parts == where.parts
        assert "shared" not in ready.source
        for rank in range(4):
            path, source = keeper.fetch(G5, f"{rank:05d}.bin")
            assert path.read_bytes()[: SIZE + rank] == some_bytes(SIZE + rank, 5 + rank)
            assert source in {"own", "peer"}
    assert not cluster.store.exists()


def test_a_wrong_copy_is_repaired_and_kept_aside(cluster: Cluster) -> None:
    """The node's own file is wrong: the partner's is taken, put in its place, and the wrong one kept with the reason."""
    where = cluster.copy(cluster.save(5))
    node = cluster.nodes["n1"]
    flip(node.scratch / "gen" / G5 / "d" / "00000.bin")
    ready = node.keeper.restore((where,), G5, 1)
    assert isinstance(ready, RestoreReady), ready
    assert data_of(Path(ready.path), 0)[:SIZE] == some_bytes(SIZE, 5)
    assert data_of(node.scratch / "gen" / G5, 0)[:SIZE] == some_bytes(SIZE, 5)
    aside = sorted(path.name for path in (node.scratch / "quarantine").iterdir())
    assert len(aside) == 2
    assert "wrong bytes" in (node.scratch / "quarantine" / aside[1]).read_text()


def test_refused_only_where_no_copy_is_right(cluster: Cluster) -> None:
    """Owner's and partner's copies are both wrong: damaged, and file and chunk are named."""
    where = cluster.copy(cluster.save(5))
    flip(cluster.nodes["n1"].scratch / "gen" / G5 / "d" / "00000.bin")
    flip(cluster.nodes["n3"].scratch / "partner" / "n1" / "gen" / G5 / "d" / "00000.bin")
    refused = cluster.nodes["n1"].keeper.restore((where,), G5, 1)
    assert isinstance(refused, RestoreRefused)
    assert refused.damaged
    assert "00000.bin: chunk 1" in refused.reason


def test_a_node_that_does_not_answer_is_no_damage(cluster: Cluster) -> None:
    """Its index cannot be had now: that is bad weather, and tried again."""
    where = cluster.save(5)
    cluster.nodes["n3"].server.stop()
    refused = cluster.nodes["n1"].keeper.restore((where,), G5, 1)
    assert isinstance(refused, RestoreRefused)
    assert not refused.damaged


def test_base_lies_beside_its_difference(cluster: Cluster) -> None:
    """What a difference builds upon is made ready as well, and stays on scratch when the watermark passes it."""
    base = cluster.copy(cluster.save(5, 5000))
    about = About(kind=SaveKind.DIFF, base=G5)
    diffs = [cluster.copy(cluster.save(step, 5000, about)) for step in (6, 7, 8)]
    node = cluster.nodes["n1"]
    for where in (base, *diffs):
        record = {"generation": where.generation, "record": sealed(where)}
        node.keeper.record_local(record)
    node.keeper.clean("000000008-0000", ())
    assert sorted(path.name for path in (node.scratch / "gen").iterdir()) == [G5, "000000007-0000", "000000008-0000"]
    copies = node.scratch / "partner" / "n3" / "gen"
    assert sorted(path.name for path in copies.iterdir()) == [G5, "000000007-0000", "000000008-0000"]
    ready = node.keeper.restore((diffs[-1], base), "000000008-0000", 1)
    assert isinstance(ready, RestoreReady), ready
    assert (Path(ready.path).parent / G5 / "COMMIT.json").is_file()
    assert not (node.scratch / "write" / "000000006-0000").exists()
    assert sorted(path.name for path in (node.scratch / "local").iterdir()) == [
        f"{name}.json" for name in (G5, "000000007-0000", "000000008-0000")
    ]


def sealed(where) -> str:
    """The LOCAL record of a generation, as the supervisor sends it."""
    commit = Commit(
        run_id=RUN,
        generation=where.generation,
        world_size=where.world_size,
        epoch=1,
        parts=where.parts,
        about=where.about,
    )
    return seal(commit)[0].decode()


def test_holder_of_a_copy_drains_for_an_owner_that_is_gone(cluster: Cluster) -> None:
    """The generation becomes durable without the lost node, and is restored from shared storage alone afterwards."""
    prepare_store(cluster.store, RUN, 1.0)
    where = cluster.copy(cluster.save(5))
    cluster.kill("n3")
    for part, holders in zip(where.parts, cluster.alive(where).holders, strict=True):
        done = cluster.nodes[holders[0]].keeper.drain(G5, part.node)
        assert not done.error, done
        assert done.node == part.node
    commit, _ = unseal(sealed(where).encode(), G5)
    commit_durable(cluster.store, commit, patience_s=0)
    ready = cluster.nodes["n2"].keeper.restore((), G5, 1)
    assert isinstance(ready, RestoreReady), ready
    path, source = cluster.nodes["n2"].keeper.fetch(G5, "00002.bin")
    assert path.read_bytes()[: SIZE + 2] == some_bytes(SIZE + 2, 7)
    assert source == "shared"


def test_two_ranks_ask_at_once_and_one_copy_is_made(cluster: Cluster, tmp_path: Path) -> None:
    """Through the socket: both get the same path; an unknown generation and an unknown file are refused."""
    where = cluster.save(5)
    keeper = cluster.nodes["n1"].keeper
    assert isinstance(keeper.restore((where,), G5, 1), RestoreReady)
    sock = StoreSocket(tmp_path / "store.sock", keeper.fetch, keeper.told)
    sock.start()
    try:
        client = AgentClient(tmp_path / "store.sock", 10.0)
        found: list[object] = []
        asking = [threading.Thread(target=lambda: found.append(client.fetch(G5, "00002.bin"))) for _ in range(2)]
        for each in asking:
            each.start()
        for each in asking:
            each.join(20)
        assert len(found) == 2
        assert found[0].path == found[1].path
        assert found[0].path.read_bytes()[: SIZE + 2] == some_bytes(SIZE + 2, 7)
        with pytest.raises(DataDamaged, match="was not restored"):
            client.fetch("000000009-0000", "00002.bin")
        with pytest.raises(DataDamaged, match="no file"):
            client.fetch(G5, "00009.bin")
        client.tell(Op.REFUSED, G5, "chunk 3 of w")
        told = cluster.nodes["n1"].said[-1]
        assert isinstance(told, RestoreRefused)
        assert told.reason == "chunk 3 of w"
    finally:
        sock.stop()


# ------------------------------------------------------------------------------------------------------- the wire


def part_of(cluster: Cluster, node: str = "n1", **more) -> PeerPart:
    """A node's own part, as another node asks for it."""
    control = ("127.0.0.1", cluster.nodes[node].control.port)
    return PeerPart(node=node, control=control, who=WHO, **{"generation": G5, "owner": node, **more})


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": "../n1"},
        {"owner": "n2"},
        {"generation": "../../etc"},
        {"generation": "000000009-0000"},
    ],
)
def test_no_name_leads_out_of_scratch(cluster: Cluster, wrong: dict) -> None:
    """Who holds the key may still be wrong: only parts that are there can be had."""
    cluster.save(5, 1000)
    with pytest.raises(OSError, match=r"n1 says"):
        part_of(cluster, **wrong).manifest()


@pytest.mark.parametrize("name", ["../m/n1.json", "/etc/passwd", "d/../../../x", "a\nb"])
def test_no_file_name_leads_out_of_its_part(cluster: Cluster, name: str) -> None:
    """A name from a request is a plain name below the part's data, or nothing."""
    where = cluster.save(5, 1000)
    manifest = cluster.nodes["n1"].keeper.gatherer(()).manifest(G5, "n1", where.parts[0].manifest_digest)[1]
    with pytest.raises(OSError, match="n1 says"):
        list(part_of(cluster).blocks(replace(manifest.files[0], name=name), 0))


def test_a_link_in_scratch_is_not_followed(cluster: Cluster) -> None:
    """Whatever somebody has put there."""
    where = cluster.save(5, 1000)
    manifest = cluster.nodes["n1"].keeper.gatherer(()).manifest(G5, "n1", where.parts[0].manifest_digest)[1]
    path = cluster.nodes["n1"].scratch / "gen" / G5 / "d" / manifest.files[0].name
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="link or not of the right kind"):
        list(part_of(cluster).blocks(manifest.files[0], 0))


def test_a_stranger_gets_nothing(cluster: Cluster) -> None:
    """Without the key there is no handshake, and a stranger that says nothing does not keep others waiting."""
    cluster.save(5, 1000)
    server = cluster.nodes["n1"].server
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        assert part_of(cluster).manifest()
        stranger = replace(part_of(cluster), who=replace(WHO, key=b"x" * 32))
        with pytest.raises(OSError):
            stranger.manifest()
        silent.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(64))
        assert part_of(cluster).manifest()


def test_a_server_that_lies_about_sizes_is_not_believed(cluster: Cluster, monkeypatch) -> None:
    """Blocks of another length than was asked for end the copy; nothing half arrives under the file's name."""
    where = cluster.save(5)

    def answer(self: StoreServer, line, request) -> None:
        line.send({"size": 1 << 59})
        line.send_data(b"x" * 100)

    monkeypatch.setattr(StoreServer, "_answer", answer)
    pair = Pair(owner="n1", holder="n3", digest=where.parts[0].manifest_digest, sources=("n1",))
    done = cluster.nodes["n3"].keeper.replicate(G5, pair)
    assert done.error
    target = cluster.nodes["n3"].keeper.tree(G5, "n1")
    assert target is not None
    assert isinstance(target, GenerationPaths)
    assert list(target.data.iterdir()) == []
