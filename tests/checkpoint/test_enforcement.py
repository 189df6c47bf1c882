from __future__ import annotations

import pytest

from ftslurm.checkpoint import tracker
from ftslurm.checkpoint.enforcement import notes
from ftslurm.checkpoint.frameworks.table import FRAMEWORKS


@pytest.mark.parametrize(
    ("layout", "words", "in_place", "manage", "said"),
    [
        ("dcp", "train --out step-{step}", True, False, "holds {checkpoint}"),
        ("dcp", "train -- --checkpoint.load_step {step}", True, False, ""),
        ("megatron", "train -- --ckpt-step {step}", True, False, ""),
        ("files", "train", False, False, ""),
        ("library", "train", False, False, ""),
        ("files", "train", True, False, "FTSLURM_CHECKPOINT but finds the newest"),
        ("hf", "train", False, False, "holds {checkpoint}"),
        ("hf", "train --resume={checkpoint}", True, False, ""),
        ("hf", "train", True, True, "holds {checkpoint}"),
        ("deepspeed", "train --load {checkpoint}", True, False, "by latest"),
        ("deepspeed", "train --tag {tag}", True, False, ""),
        ("deepspeed", "train", True, True, ""),
        ("megatron", "train --load {checkpoint}", True, False, "refusal is not enforced"),
        ("megatron", "train --load {checkpoint}", True, True, ""),
        ("megatron", "train --load {checkpoint}", False, False, ""),
    ],
)
def test_what_cannot_be_enforced_is_said(layout: str, words: str, in_place: bool, manage: bool, said: str) -> None:
    """One sentence where a refused checkpoint can still be loaded, none where it cannot."""
    command, _, appended = words.partition(" -- ")
    found = notes(layout, command.split(), appended.split(), in_place=in_place, manage=manage)
    assert len(found) == bool(said)
    assert not said or said in found[0]


@pytest.mark.parametrize(
    ("layout", "name", "content"),
    [("megatron", "latest_checkpointed_iteration.txt", "500"), ("deepspeed", "latest", "global_step500")],
)
def test_a_tracker_is_rewritten_whole_and_kept(tmp_path, layout: str, name: str, content: str) -> None:
    """What it named before stands in the run's own folder; its rights stay; a second time nothing has to be done."""
    framework, folder, kept = FRAMEWORKS[layout], tmp_path / "out", tmp_path / "kept"
    folder.mkdir()
    (folder / name).write_text("999\n")
    (folder / name).chmod(0o640)
    assert tracker.rewrite(folder, framework, "global_step500", 500, kept)
    assert (folder / name).read_text() == content
    assert (folder / name).stat().st_mode & 0o777 == 0o640
    assert [path.read_text() for path in kept.iterdir()] == ["999\n"]
    assert not tracker.rewrite(folder, framework, "global_step500", 500, kept)
    assert [path.name for path in folder.iterdir()] == [name]


def test_others_have_none(tmp_path) -> None:
    """A framework that is given a path has no such file."""
    assert not tracker.rewrite(tmp_path, FRAMEWORKS["hf"], "checkpoint-5", 5, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []
