"""A crash at every boundary of what the library does: the old checkpoint or the new one is there, bit by bit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftslurm.checkpoint.commit import commit_durable
from ftslurm.checkpoint.drain import Target, drain_part
from ftslurm.checkpoint.layout import GenerationPaths
from ftslurm.checkpoint.retention import apply
from ftslurm.checkpoint.writer import WriteOptions
from ftslurm.core.retention import Rules
from tests.checkpoint.crashdisk import Disk, Kept, record, run_and_die, states
from tests.checkpoint.libraryworld import AT, RANKS, Library, nodes

OLD, NEW = "000000010-0000", "000000020-0000"


@pytest.fixture
def library() -> Iterator[Library]:
    """In memory where that is possible: the recorder decides what is safe. Step 10 is durable."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = Library(Path(folder) / "w").prepare()
        assert made.save(10) == OLD
        yield made


def scratch(library: Library) -> GenerationPaths:
    """Where the ranks' nodes have the new generation before it is drained."""
    return GenerationPaths(library.root / "scratch" / "gen" / NEW)


def to_scratch(library: Library) -> None:
    """Let the ranks write step 20 there."""
    for rank in RANKS:
        library.write(scratch(library), 20, rank)


def drain(library: Library) -> None:
    """What agents and supervisor do with step 20."""
    for node in nodes():
        report = drain_part(scratch(library).root, node, Target(destination=str(library.store), patience_s=0))
        assert report.ok, report
    commit_durable(library.store, library.commit_of(scratch(library)), patience_s=0)


def save(library: Library) -> None:
    """Straight into the store."""
    library.save(20)


def save_diff(library: Library) -> None:
    """With references to step 10."""
    library.save(20, base=OLD)


def save_packed(library: Library) -> None:
    """Compressed."""
    library.options = WriteOptions(compression="zstd")
    library.save(20)


Work = Callable[[Library], None]
WORKS: list[Work] = [save, save_diff, save_packed, drain]


def recorded(library: Library, work: Work) -> tuple[Disk, list]:
    """What lay in the store before, and what was done to it."""
    if work is drain:
        to_scratch(library)
    before = Disk.of(library.store)
    with record(library.store) as ops:
        work(library)
    return before, ops


def assert_complete(before: Disk, ops: list, store: Path) -> None:
    """The recorder has missed nothing: what it lists makes the same files."""
    for op in ops:
        before.apply(op)
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    known = {name: before.data[number] for name, number in before.names.items()}
    assert {name: bytes(content) for name, content in known.items() if content is not None} == files


@pytest.mark.parametrize("work", WORKS)
def test_a_power_cut_at_any_moment(library: Library, work: Work) -> None:
    """With every unsynced byte and name dropped or kept, a restart finds step 20 whole, or else step 10 whole."""
    before, ops = recorded(library, work)
    seen: set[str] = set()
    for why, root in states(before, ops, library.root / "states"):
        library.check(GenerationPaths(root / "gen" / OLD))
        newest, _ = library.newest(root)
        assert newest in {OLD, NEW}, why
        seen.add(newest)
        shutil.rmtree(root)
    assert seen == {OLD, NEW}


@pytest.mark.parametrize("work", WORKS)
def test_what_was_promised_survives_a_power_cut(library: Library, work: Work) -> None:
    """Once the commit has returned, no unsynced byte or name is needed."""
    before, ops = recorded(library, work)
    assert_complete(before, ops, library.store)
    root = library.root / "after"
    root.mkdir()
    before.write_to(root, safe_names=True, kept=Kept.SYNCED)
    assert library.newest(root) == (NEW, [])


def test_the_data_is_safe_before_its_index_and_the_index_before_the_commit(library: Library) -> None:
    """Each name appears only after everything that it vouches for was synced."""
    _, ops = recorded(library, save)
    done = [(op[0], op[2] if op[0] == "rename" else op[1]) for op in ops]
    folder = f"gen/{NEW}"
    for rank in RANKS:
        data, index = f"{folder}/d/{rank:05d}.bin", f"{folder}/d/{rank:05d}.json"
        written = max(at for at, (kind, name) in enumerate(done) if kind == "write" and name == data)
        order = [
            written,
            done.index(("fsync", data)),
            done.index(("rename", index)),
            done.index(("fsync", f"{folder}/d"), done.index(("rename", index))),
            done.index(("rename", f"{folder}/m/rank-{rank:05d}.json")),
            done.index(("rename", f"{folder}/COMMIT.json")),
        ]
        assert order == sorted(order)


def test_a_power_cut_while_the_old_one_is_deleted(library: Library) -> None:
    """Step 20 is whole at every moment; step 10 is whole or not offered."""
    save(library)
    before = Disk.of(library.store)
    with record(library.store) as ops:
        assert apply(library.store, Rules(last=1), now=AT) == (OLD,)
    for why, root in states(before, ops, library.root / "states"):
        assert library.newest(root) == (NEW, []), why
        shutil.rmtree(root / "gen" / NEW)
        assert library.newest(root)[0] in {OLD, ""}, why
        shutil.rmtree(root)


def test_a_power_cut_while_all_but_a_diff_and_full_ones_is_deleted(library: Library) -> None:
    """What a kept generation refers to stays, and is whole at every moment; so is a second full one."""
    library.save(15)
    save(library)
    diff = library.save(30, base=NEW)
    before = Disk.of(library.store)
    with record(library.store) as ops:
        assert apply(library.store, Rules(last=1), now=AT) == (OLD,)
    for why, root in states(before, ops, library.root / "states"):
        assert library.newest(root) == (diff, []), why
        library.check(GenerationPaths(root / "gen" / NEW))
        shutil.rmtree(root)


@pytest.mark.parametrize("work", WORKS)
def test_death_before_each_call(library: Library, work: Work) -> None:
    """Killed at any call: old or new at once; and the next incarnation, or the drain that goes on, makes a new one."""
    if work is drain:
        to_scratch(library)
    pristine = library.root / "pristine"
    shutil.copytree(library.store, pristine)
    calls, finished = 0, False
    while not finished:
        shutil.rmtree(library.store)
        shutil.copytree(pristine, library.store)
        finished = run_and_die(library.root, lambda: work(library), calls)
        newest, _ = library.newest()
        assert newest in ({NEW} if finished else {OLD, NEW}), calls
        library.check(library.paths(OLD))
        if work is drain:
            drain(library)
            assert library.newest() == (NEW, []), calls
        else:
            again = library.save(20, attempt=1, base=OLD if work is save_diff else "")
            assert library.newest()[0] == again, calls
        calls += 1
    assert calls > 40
