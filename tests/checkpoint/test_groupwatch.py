from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.groups import also_of, framework_of, handed_over
from ftslurm.checkpoint.groupwatch import GroupRules, GroupWatcher
from ftslurm.checkpoint.writers import Writers
from tests.checkpoint.watched import SETTLE_S, WELL, Watched, zip_bytes

Watch = Callable[..., Watched]


def find_saves(root: Path) -> list[Found]:
    """A framework that is easy to see through: `save-N/` is complete with a file `last` in it."""
    folders = sorted(root.glob("save-*"), key=lambda path: int(path.name[5:]))
    return [
        Found(step=int(path.name[5:]), name=path.name, files=tuple(sorted(f"{path.name}/{each.name}" for each in path.iterdir())))
        for path in folders
    ]  # fmt: skip


def check_save(root: Path, found: Found, world: int | None = None) -> str:
    """What is wrong with one."""
    del root, world
    return "" if f"{found.name}/last" in found.files else "there is no last"


TOY = Framework(
    name="toy", reshards=True, save_on="none", restore_by="path", enforced=True, find=find_saves, check=check_save
)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Start to watch a folder: `watch(files=..., once=..., world=...)`; again for another attempt."""
    folder = tmp_path / "write"
    folder.mkdir()
    count = 0

    def begin(
        files: tuple[str, ...] = (), *, once: bool = False, world: int = 1, also: tuple[str, ...] = (), **more: str
    ) -> Watched:
        nonlocal count
        count += 1
        framework = framework_of("files", files, **more) if files else TOY
        rules = GroupRules(framework=framework, settle_s=SETTLE_S, world=world, also=also, once=once)
        return Watched(GroupWatcher(folder, rules, tmp_path / f"before-{count}.json"), folder)  # type: ignore[arg-type]

    return begin


def test_a_group_is_complete_when_its_framework_says_so_and_it_is_silent(watch: Watch) -> None:
    """Neither silence nor completeness is enough alone."""
    watched = watch()
    watched.write("save-5/model")
    assert watched.scan_for(3 * SETTLE_S) == ([], {})
    assert watched.scan().pending == (5,)
    watched.write("save-5/last")
    assert watched.scan_for(SETTLE_S / 2)[0] == []
    assert watched.scan_for(2 * SETTLE_S)[0] == [5]
    assert watched.scan_for(2 * SETTLE_S) == ([], {})


@pytest.mark.parametrize(
    "writers",
    [Writers(alive=frozenset()), Writers(alive=frozenset({os.getpid()}), ranks_lost=1)],
    ids=["nobody", "one is dead"],
)
def test_nobody_vouches_for_the_dead(watch: Watch, writers: Writers) -> None:
    """What looks complete is not told by a node whose writers have ended: one may have been killed in the middle."""
    watched = watch()
    watched.write("save-5/last")
    assert watched.scan_for(4 * SETTLE_S, writers)[0] == []
    assert watched.watcher.attempt_ended(watched.now + 1).complete == ()


def test_an_earlier_attempts_files_are_no_part(watch: Watch) -> None:
    """Of a folder that is written again only what is new counts; untouched ones are not the attempt's at all."""
    watched = watch()
    for name in ("save-5/last", "save-6/last", "save-6/model", "save-6/rank_3"):
        watched.write(name, b"old")
    again = watch()
    assert again.scan_for(2 * SETTLE_S) == ([], {})
    again.write("save-6/model", b"new")
    assert again.scan_for(2 * SETTLE_S)[0] == []
    again.write("save-6/last", b"new")
    again.scan_for(SETTLE_S / 2)
    told = [each for _ in range(12) for each in again.scan().complete]
    assert [[file.name for file in each.files] for each in told] == [["save-6/last", "save-6/model"]]


def test_files_that_are_half_written_again_wait(watch: Watch) -> None:
    """In the files layout nobody knows what belongs together: one old file keeps the step waiting."""
    patterns = ("step_{step}/*",)
    first = watch(patterns)
    for name in ("step_5/model", "step_5/optim"):
        first.write(name, b"old")
    again = watch(patterns)
    again.write("step_5/model", b"new")
    assert again.scan_for(20 * SETTLE_S) == ([], {})
    again.write("step_5/optim", b"new")
    assert again.scan_for(2 * SETTLE_S)[0] == [5]


def test_a_group_that_changes_is_told_again_or_refused(watch: Watch) -> None:
    """In place the program may come back to a group; what was captured may not change any more."""
    for once, steps in ((False, [5]), (True, [])):
        watched = watch(once=once)
        watched.write("save-5/last", b"1")
        assert watched.scan_for(2 * SETTLE_S)[0] == [5]
        watched.write("save-5/more", b"2")
        found = watched.scan_for(2 * SETTLE_S)
        assert found[0] == steps
        assert list(found[1]) == (["save-5"] if once else [])
        for path in (watched.folder / "save-5").iterdir():
            path.unlink()


def test_a_writer_may_pause(watch: Watch) -> None:
    """Longer than the settle time, as long as the file is open."""
    watched = watch()
    path = watched.write("save-5/last")
    with path.open("ab") as file:
        file.write(b"half")
        file.flush()
        assert watched.scan_for(5 * SETTLE_S)[0] == []
    assert watched.scan_for(3 * SETTLE_S)[0] == [5]


def test_files_need_every_rank_their_structure_and_their_marker(watch: Watch) -> None:
    """Patterns make a framework of their own."""
    watched = watch(("step_{step}/rank_{rank}.pt",), world=2)
    watched.write("step_5/rank_0.pt", zip_bytes())
    assert watched.scan_for(2 * SETTLE_S)[0] == []
    watched.write("step_5/rank_1.pt", zip_bytes()[:-1])
    assert watched.scan_for(4 * SETTLE_S)[0] == []
    watched.write("step_5/rank_1.pt", zip_bytes())
    assert watched.scan_for(4 * SETTLE_S)[0] == [5]
    marked = watch(("step_*.bin",), done_marker="{name}.done")
    marked.write("step_7.bin")
    assert marked.scan_for(4 * SETTLE_S)[0] == []
    marked.write("step_7.bin.done", b"")
    assert marked.scan_for(4 * SETTLE_S)[0] == [7]


def test_an_end_without_fault_is_the_last_word(watch: Watch) -> None:
    """When every rank ended with code 0 nobody has to wait; what is not complete is named all the same."""
    watched = watch()
    watched.write("save-5/last")
    watched.write("save-6/model")
    watched.scan()
    found = watched.watcher.attempt_ended(watched.now + 0.1, clean=True)
    assert [each.step for each in found.complete] == [5]
    assert dict(found.refused) == {"save-6": "the attempt ended: there is no last"}


def test_an_agent_that_is_started_again_knows_what_was_there(tmp_path: Path, watch: Watch) -> None:
    """What lay there when the attempt began is kept in a file."""
    watched = watch()
    watched.write("save-5/last")
    rules = GroupRules(framework=TOY, settle_s=SETTLE_S, world=1)
    again = Watched(GroupWatcher(watched.folder, rules, tmp_path / "before-1.json"), watched.folder)  # type: ignore[arg-type]
    assert again.scan_for(2 * SETTLE_S)[0] == [5]


def test_further_files_belong_to_their_step(watch: Watch) -> None:
    """`also` names what lies elsewhere; links are never followed."""
    watched = watch(also=("data_{step}.json",))
    watched.write("data_5.json")
    watched.write("save-5/last")
    watched.scan(WELL)
    told = [each for _ in range(20) for each in watched.scan().complete]
    assert [[file.name for file in each.files] for each in told] == [["data_5.json", "save-5/last"]]
    (watched.folder / "data_6.json").symlink_to("data_5.json")
    assert also_of(watched.folder, ("data_{step}.json",), 6) == ()


def test_what_is_handed_over_is_the_checkpoint_itself(tmp_path: Path) -> None:
    """The folder or the file by its framework's name; the top where there is none."""
    (tmp_path / "save-5").mkdir()
    (tmp_path / "save-5/last").touch()
    names = frozenset({"save-5/last"})
    assert handed_over(TOY, tmp_path, 5, names) == tmp_path / "save-5"
    assert handed_over(TOY, tmp_path, 6, names) == tmp_path
    (tmp_path / "step_7.pt").touch()
    own = framework_of("files", ("step_*.pt",))
    assert handed_over(own, tmp_path, 7, frozenset({"step_7.pt"})) == tmp_path / "step_7.pt"
