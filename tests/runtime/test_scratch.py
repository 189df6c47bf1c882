"""Which folder is scratch, and that it is the node's own: proven by marks, never believed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.core.events import Event, ScratchShared
from ftslurm.runtime import scratch
from ftslurm.runtime.control import Credentials
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.libsaver import LibSaver
from ftslurm.runtime.saver import Saver
from ftslurm.runtime.scratch import Marks, Mount
from ftslurm.runtime.spec import AgentSpec, CheckpointSpec

NEW, OLD = (23, 2, 6), (22, 5, 8)


def marks_of(folder: Path, node: str, incarnation: str = "7.0", nodes: str = "n[1-3]") -> Marks:
    """The marks as the agent of a node knows them."""
    return Marks.of(folder, node, incarnation, {"SLURM_JOB_NODELIST": nodes})


def test_a_folder_with_another_nodes_mark_is_shared(tmp_path: Path) -> None:
    """Whoever comes last sees the others; who came first sees them when it looks again. Alone nobody is met."""
    first, second = marks_of(tmp_path, "n1"), marks_of(tmp_path, "n2")
    first.leave()
    assert first.met() == ""
    second.leave()
    assert (first.met(), second.met()) == ("n2", "n1")


def test_marks_of_an_earlier_job_prove_nothing(tmp_path: Path) -> None:
    """A disk may have been in another node, or a node have had another name, when the run was here before."""
    marks_of(tmp_path, "n2", "7.0").leave()
    assert marks_of(tmp_path, "n1", "7.1").met() == ""
    assert marks_of(tmp_path, "n1", "8.0").met() == ""


def test_a_mark_is_found_by_name_where_the_list_is_an_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS a folder's list may be half a minute old: names of the job's nodes are looked up themselves."""
    marks_of(tmp_path, "n2").leave()
    monkeypatch.setattr(os, "listdir", lambda _: [])
    assert marks_of(tmp_path, "n1").met() == "n2"
    assert marks_of(tmp_path, "n1", nodes="x[").met() == ""


def test_a_folder_that_does_not_answer_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that waits for it waits for a moment only."""
    marks_of(tmp_path, "n2").leave()
    monkeypatch.setattr(scratch, "LOOK_S", 0.02)
    monkeypatch.setattr(os, "listdir", lambda _: __import__("time").sleep(0.3) or [])
    assert marks_of(tmp_path, "n1", nodes="n1").met() == ""


# -------------------------------------------------------------------------------------------------------- two agents


def agent_on(node: str, base: str, root: Path, layout: str, said: list[Event]) -> Saver | LibSaver:
    """The part of an agent that keeps checkpoints."""
    saved = CheckpointSpec(
        files=("*.pt",) if layout == "files" else (), scratch=base, shared=str(root / "shared"), drain="auto",
        drain_to="", rate_limit=0.0, settle_s=1.0, done_marker="", save_on="none",
    )  # fmt: skip
    saved = replace(saved, layout=layout)
    spec = AgentSpec(
        run_id="r", run_dir=str(root), host="127.0.0.1", port=1, epoch=1, interface="", ports=(20000, 30000),
        interval_s=1.0, deadman_s=10.0, checkpoint=saved, job_id="7",
    )  # fmt: skip
    who = Credentials(key=bytes(32), run_id="r")
    post = Post(spec=spec, node=node, who=who, report=said.append, ranks=lambda _: (), peers=dict)
    return LibSaver(post) if layout == "library" else Saver(post)


@pytest.mark.parametrize("layout", ["files", "library"])
def test_two_nodes_with_one_folder_have_no_scratch(tmp_path: Path, layout: str) -> None:
    """The later one knows at its start, the first one before it obeys its first order; both write to shared storage."""
    said: list[Event] = []
    first = agent_on("n1", str(tmp_path), tmp_path, layout, said)
    assert first.has_scratch
    second = agent_on("n2", str(tmp_path), tmp_path, layout, said)
    assert not second.has_scratch
    first.settle()
    assert not first.has_scratch
    assert {first.folder, second.folder} == {tmp_path / "shared/write/n1", tmp_path / "shared/write/n2"}
    assert first.folder.is_dir()
    words = [(event.node, event.reason) for event in said if isinstance(event, ScratchShared)]
    assert [node for node, _ in words] == ["n2", "n1"]
    assert words[1][1].endswith("is the same folder on n2")
    first.settle()
    assert len(said) == 2


def test_a_node_with_a_folder_of_its_own_keeps_it(tmp_path: Path) -> None:
    """The same path on two nodes is no reason: their marks are in different places."""
    said: list[Event] = []
    agents = []
    for node in ("n1", "n2"):
        (tmp_path / node).mkdir()
        agents.append(agent_on(node, str(tmp_path / node), tmp_path, "files", said))
    for agent in agents:
        agent.settle()
        assert agent.has_scratch
    assert said == []


# ------------------------------------------------------------------------------------------------ folders of the job


def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: dict[str, Mount]) -> dict[str, Path]:
    """Make the usual places, each on a mount of its own."""
    found = {name: tmp_path / name for name in mounts}
    for path in found.values():
        path.mkdir()
    monkeypatch.setattr(scratch, "LOCAL_PATHS", tuple(map(str, found.values())))
    monkeypatch.setattr(scratch, "mount_of", lambda path: mounts[path.name])
    return found


@pytest.mark.parametrize(("release", "found"), [(NEW, "tmp"), (OLD, None), ((), None)])
def test_a_folder_that_goes_with_the_job_is_the_last_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: tuple[int, ...], found: str | None
) -> None:
    """Before 23.02.6, or where nobody knows, it is none: a lost node may take the survivors' folders along."""
    private = Mount("/storage/77/.77", "/tmp", "xfs")
    made = places(tmp_path, monkeypatch, {"tmp": private})
    chosen = scratch.scratch_of("auto", {"SLURM_JOB_ID": "77"}, lambda: release)
    assert chosen == (made[found] if found else None)


def test_a_lasting_folder_goes_before_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private one is passed over, a network's is none; Slurm's release is not even asked for."""
    mounts = {
        "nfs": Mount("/", "/nfs", "nfs4"),
        "tmp": Mount("/storage/77/.77", "/tmp", "xfs"),
        "disk": Mount("/", "/disk", "xfs"),
    }
    made = places(tmp_path, monkeypatch, mounts)
    assert scratch.scratch_of("auto", {"SLURM_JOB_ID": "77"}, pytest.fail) == made["disk"]
    assert scratch.scratch_of("auto", {"SLURM_JOB_ID": "78"}, pytest.fail) == made["tmp"]
    assert scratch.scratch_of("none", {}) is None
    assert scratch.scratch_of("/x", {}) == Path("/x")
