"""Frameworks on scratch: each node has its own ranks' files, and the framework is asked when all are together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftslurm.checkpoint.commit import prepare_store
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.frameworks.table import FRAMEWORKS
from ftslurm.checkpoint.layout import StorePaths
from ftslurm.checkpoint.store import scan
from ftslurm.checkpoint.tracker import name_of, together
from ftslurm.core.actions import CommitDurable
from ftslurm.core.events import Event, GenerationDurable, RestoreReady, RestoreRefused
from ftslurm.core.manifest import Commit
from ftslurm.errors import DataDamaged
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.saver import Saver
from ftslurm.runtime.spec import AgentSpec, CheckpointSpec
from ftslurm.runtime.stores import Stores
from tests.checkpoint import frameworktrees
from tests.checkpoint.world import AT, RUN, World
from tests.runtime.sites import Site, digests
from tests.runtime.vaults import WHO

STEP = 10


def spec_of(world: World, layout: str) -> CheckpointSpec:
    """What agents and the supervisor are told."""
    return CheckpointSpec(
        files=(), scratch=str(world.root / "n1/scratch"), shared=str(world.store), drain="auto", drain_to="",
        rate_limit=0.0, settle_s=1.0, done_marker="", save_on="none", layout=layout,
    )  # fmt: skip


def drained(world: World, layout: str, drop: str = "") -> Commit:
    """A recorded checkpoint, every second file written on the other node, on shared storage but not committed."""
    prepare_store(world.store, RUN, AT)
    source = world.root / "source"
    getattr(frameworktrees, layout)(source, STEP)
    found = next(each for each in FRAMEWORKS[layout].find(source) if each.step == STEP)
    files = {name: (source / name).read_bytes() for name in found.files if not drop or not name.endswith(drop)}
    parts = {}
    for number, node in enumerate(("n1", "n2")):
        mine = {name: data for index, (name, data) in enumerate(sorted(files.items())) if index % 2 == number}
        parts[node] = world.capture(node, STEP, mine)
        assert drain_part(parts[node].folder, node, Target(destination=str(world.store))).ok
    return world.commit(STEP, parts)


def committed(world: World, layout: str, commit: Commit) -> GenerationDurable:
    """What comes of the order to commit it."""
    told: list[Event] = []
    side = Stores(RUN, spec_of(world, layout), 1, told.append, lambda: True)
    side.commit(CommitDurable(generation=commit.generation, step=STEP, world_size=2, parts=commit.parts))
    (durable,) = [event for event in told if isinstance(event, GenerationDurable)]
    return durable


@pytest.mark.parametrize("layout", ["hf", "deepspeed", "megatron", "dcp"])
def test_whole_ones_are_committed_and_handed_over(tmp_path: Path, layout: str) -> None:
    """All nodes' files together pass; a restart finds the checkpoint, and its tracker file where there is one."""
    world = World(tmp_path)
    commit = drained(world, layout)
    assert not committed(world, layout, commit).error
    agent = AgentSpec(
        run_id=RUN, run_dir=str(tmp_path), host="127.0.0.1", port=1, epoch=1, interface="", ports=(20000, 30000),
        interval_s=1.0, deadman_s=10.0, checkpoint=spec_of(world, layout),
    )  # fmt: skip
    told: list[Event] = []
    keeper = Saver(Post(spec=agent, node="n1", who=WHO, report=told.append, ranks=lambda attempt: (), peers=dict))
    event = keeper.restore((), commit.generation, 1)
    assert isinstance(event, RestoreReady), event
    path, row = Path(event.path), FRAMEWORKS[layout]
    (found,) = row.find(path.parent)
    assert row.check(path.parent, found, 2) == ""
    handed = keeper.handed(event.path)
    if row.restore_by == "path":
        assert handed == {"FTSLURM_CHECKPOINT": event.path}
    else:
        assert (path.parent / name_of(row)).is_file()
        assert handed == {"FTSLURM_CHECKPOINT": str(path.parent), "FTSLURM_CHECKPOINT_TAG": path.name}
    assert keeper.handed("") == {}


@pytest.mark.parametrize(
    ("layout", "drop"), [("hf", "optimizer.pt"), ("deepspeed", "optim_states.pt"), ("dcp", ".distcp")]
)
def test_half_a_one_is_never_committed(tmp_path: Path, layout: str, drop: str) -> None:
    """A node that was killed before its file was there: what the others have settles, and is no checkpoint."""
    world = World(tmp_path)
    durable = committed(world, layout, drained(world, layout, drop))
    assert durable.gone
    assert "no complete checkpoint" in durable.error
    assert scan(world.store).generations == ()


def test_a_folder_without_the_step_is_refused(tmp_path: Path) -> None:
    """Nothing is handed over that is not there."""
    with pytest.raises(DataDamaged, match="no checkpoint of step 7"):
        together(FRAMEWORKS["hf"], tmp_path, 7, 1)
    assert replace(spec_of(World(tmp_path), "hf"), folder="/x").in_place
    assert StorePaths(tmp_path).generations.name == "gen"


@pytest.mark.parametrize("manage", [True, False])
@pytest.mark.parametrize("layout", ["megatron", "deepspeed"])
def test_a_tracker_file_follows_only_where_it_may(tmp_path: Path, layout: str, manage: bool) -> None:
    """The newest is damaged, and the one before handed over: the framework's own file names it with `manage: true` only."""
    site = Site(tmp_path, {"layout": layout, "files": (), "manage": manage})
    row = FRAMEWORKS[layout]
    for step in (10, 20):
        getattr(frameworktrees, layout)(site.folder, step)
        site.commit(step)
    newest, pointer = row.find(site.folder)[-1], site.folder / name_of(row)
    said, victim = pointer.read_text(), site.folder / newest.files[0]
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    before = digests(site.folder)
    assert [event for event in site.restore(20) if isinstance(event, RestoreRefused)]
    events = site.restore(10)
    assert all(isinstance(event, RestoreReady) for event in events)
    handed = site.agents["n1"].handed(events[0].path)
    assert handed["FTSLURM_CHECKPOINT"] == str(site.folder)
    assert handed["FTSLURM_CHECKPOINT_TAG"] == row.find(site.folder)[0].name
    if not manage:
        assert digests(site.folder) == before
        return
    assert pointer.read_text() == ("10" if layout == "megatron" else handed["FTSLURM_CHECKPOINT_TAG"])
    assert said in [path.read_text() for path in (site.store / "replaced").iterdir()]
