from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftslurm.checkpoint.frameworks.framework import Found, Framework
from ftslurm.checkpoint.frameworks.table import FRAMEWORKS
from tests.checkpoint.frameworktrees import KINDS, STEPS, Kind, plant, safetensors, saved

SECRET = "/etc/hostname"


@pytest.fixture(params=KINDS)
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind, Path]:
    """Two sound checkpoints of each kind, one kind after the other."""
    return plant(request.param, tmp_path), tmp_path


def newest(framework: Framework, root: Path) -> Found:
    """The newest checkpoint that is found."""
    return framework.find(root)[-1]


def refusal(framework: Framework, root: Path, found: Found) -> str:
    """Why it is refused: one line that a person can read."""
    said = framework.check(root, found)
    assert len(said) < 300
    assert said.isprintable()
    return said


def test_sound_ones_are_found_and_pass(planted: tuple[Kind, Path]) -> None:
    """What the frameworks write is found, the newest last, with all its files, and nothing is held against it."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    found = framework.find(root)
    assert [each.step for each in found] == list(STEPS)
    assert [refusal(framework, root, each) for each in found] == ["", ""]
    named = {*found[0].files, *found[0].also, *found[1].files}
    assert named == {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert list(found[1].files) == sorted(found[1].files)


def test_no_cut_file_passes(planted: tuple[Kind, Path]) -> None:
    """Each file cut off anywhere, or empty, is noticed; the older checkpoint stays what it was."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    found = newest(framework, root)
    for name in found.files:
        whole = (root / name).read_bytes()
        for size in {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
            (root / name).write_bytes(whole[:size])
            assert refusal(framework, root, found), f"{name} with {size} of {len(whole)} bytes"
            assert refusal(framework, root, framework.find(root)[0]) == ""
        (root / name).write_bytes(whole)
    assert refusal(framework, root, found) == ""


def test_no_missing_file_passes(planted: tuple[Kind, Path]) -> None:
    """Each file that is missing is noticed, also when it was missing already when the checkpoint was found."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    found = newest(framework, root)
    for name in (*found.files, *found.also):
        moved = (root / name).rename(root / "moved")
        later = newest(framework, root)
        assert later.step < found.step or bool(refusal(framework, root, later)) != name.endswith(kind.optional or "?")
        assert refusal(framework, root, found) or name.endswith(kind.optional or "?"), name
        moved.rename(root / name)


def test_no_link_passes(planted: tuple[Kind, Path]) -> None:
    """A link is refused, for a file as for a whole checkpoint: what it shows may be replaced behind our back."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    found = newest(framework, root)
    for name in found.files:
        moved = (root / name).rename(root / "moved")
        (root / name).symlink_to(moved)
        assert "link" in refusal(framework, root, found)
        (root / name).unlink()
        moved.rename(root / name)
    moved = (root / found.name).rename(root / "moved")
    (root / found.name).symlink_to(moved)
    assert "link" in refusal(framework, root, newest(framework, root))


def test_no_other_steps_checkpoint_passes(planted: tuple[Kind, Path]) -> None:
    """A checkpoint under the name of another step is refused, where anything in it tells the step."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    older, found = framework.find(root)
    shutil.rmtree(root / found.name) if (root / found.name).is_dir() else (root / found.name).unlink()
    (root / older.name).rename(root / found.name)
    said = refusal(framework, root, newest(framework, root))
    nothing_tells = kind.framework == "dcp"
    assert (said == "") if nothing_tells else (f"the name tells {found.step}" in said)


def test_a_file_on_its_way_is_waited_for(planted: tuple[Kind, Path]) -> None:
    """A name that says so is of a save that goes on, or was given up."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    found = newest(framework, root)
    if (root / found.name).is_dir():
        (root / found.name / ".metadata.tmp").touch()
        assert "still being written" in refusal(framework, root, newest(framework, root))


def test_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    """A folder that is missing, empty or full of other things holds no checkpoint."""
    for framework in FRAMEWORKS.values():
        assert framework.find(tmp_path / "missing") == []
        assert framework.find(tmp_path) == []
    for name in ("checkpoint-", "checkpoint-x", "iter_12", "global_stepx", "2024", "logs-7"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-3").touch()
    (tmp_path / "last.ckpt").touch()
    for framework in FRAMEWORKS.values():
        assert framework.find(tmp_path) == []


# ---------------------------------------------------------------------------------------------- damage of one layout


def edit(file: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change a JSON file."""

    def damage(root: Path) -> None:
        record = json.loads((root / file).read_text())
        change(record)
        (root / file).write_text(json.dumps(record))

    return damage


def write(file: str, content: str | bytes) -> Callable[[Path], None]:
    """Replace a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / file).write_bytes(data) and None


def remove(*files: str) -> Callable[[Path], None]:
    """Delete files."""
    return lambda root: [(root / file).unlink() for file in files] and None


INDEX = "checkpoint-20/model.safetensors.index.json"
STATE = "checkpoint-20/trainer_state.json"
MODEL = "global_step20/mp_rank_00_model_states.pt"
METADATA = b"torch.distributed.checkpoint.metadata"
TRACKER = "latest_checkpointed_iteration.txt"

TWINS = [
    ("hf", edit(INDEX, lambda r: r["weight_map"].update(c="model-00003-of-00003.safetensors")), "which is missing"),
    ("hf", edit(INDEX, lambda r: r["weight_map"].update(c="../checkpoint-10/config.json")), "not a relative path"),
    ("hf", edit(INDEX, lambda r: r["weight_map"].update(c=SECRET)), "not a relative path"),
    ("hf", edit(INDEX, lambda r: r["weight_map"].update(c=["a"])), "not a file name"),
    ("hf", edit(INDEX, lambda r: r.update(weight_map={})), "names no shard"),
    ("hf", write(INDEX, "[" * 100_000), "no valid JSON"),
    ("hf", write(INDEX, "{" + ",".join(f'"{n}":1' for n in range(100))), "no valid JSON"),
    ("hf", write(INDEX, b"[" + b"1," * 8_000_001 + b"1]"), "more than 8000000 values"),
    ("hf", write(STATE, "[]"), "no JSON object"),
    ("hf", write(STATE, '{"global_step": true}'), "the name tells 20"),
    ("hf", write(STATE, '{"global_step": 20.5}'), "the name tells 20"),
    ("hf", write(STATE, b"\xff\xfe{}"), "no valid JSON"),
    ("hf", write("checkpoint-20/optimizer.pt", b"\0" * 4096), "does not begin as torch.save"),
    ("hf", remove("checkpoint-20/rng_state_1.pth"), "rng_state_1.pth is missing"),
    ("hf", remove("checkpoint-20/rng_state_0.pth", "checkpoint-20/rng_state_1.pth"), "no random state"),
    ("hf", write("checkpoint-20/checkpoint-is-incomplete.txt", "at step 20"), "says so itself"),
    ("hf", write("checkpoint-20/latest", ".."), "no name of a checkpoint"),
    ("hf", write("checkpoint-20/latest", "global_step20"), "no states of the model"),
    ("lightning", lambda r: saved(ckpt(r), {"global_step": 20, "state_dict": {}}), "training cannot go on"),
    ("lightning", lambda r: saved(ckpt(r), [1, 2, 3]), "holds no dict"),
    ("lightning", lambda r: safetensors(ckpt(r), ("a",)), "does not begin as torch.save"),
    ("lightning, a folder", remove("epoch=0-step=20.ckpt/meta.pt"), "meta.pt is missing"),
    ("dcp", write("step-20/__1_0.distcp", b"x" * 502), "has 502 bytes, but .metadata tells 501"),
    ("dcp", write("step-20/.metadata", b"cos\nsystem\n(X\x04\0\0\0trueRtR."), "'os.system'"),
    ("dcp", write("step-20/.metadata", b"c" + METADATA + b"\nos\n."), "metadata.os' in it"),
    ("dcp", write("step-20/.metadata", b"\x8c\x25" + METADATA + b"\x8c\x09os.system\x93."), "os.system' in it"),
    ("dcp", write("step-20/.metadata", b"(lp0\n."), "opcode"),
    ("dcp", write("step-20/.metadata", b"}."), "names no file"),
    ("megatron", write(TRACKER, "10"), "was not finished"),
    ("megatron", write(TRACKER, "release"), "was not finished"),
    ("megatron", write(TRACKER, ""), "no name of a checkpoint"),
    ("megatron", write(TRACKER, "9" * 5000), "more than 4096 bytes"),
    ("megatron", lambda r: shutil.rmtree(r / "iter_0000020" / "mp_rank_01_001"), "3 folders of ranks, not 2 x 2"),
    ("megatron", lambda r: shutil.rmtree(r / "iter_0000020" / "mp_rank_00_000"), "3 folders of ranks, not 2 x 2"),
    ("megatron, distributed", write("iter_0000020/metadata.json", '{"sharded_backend": "zarr"}'), "'zarr'"),
    ("deepspeed", write("latest", "global_step10"), "was not finished"),
    ("deepspeed", write("latest", "../global_step20"), "no name of a checkpoint"),
    ("deepspeed", lambda r: saved(r / MODEL, {"global_steps": 20}), "dp_world_size"),
    ("deepspeed", lambda r: saved(r / MODEL, {"dp_world_size": 10**9, "mp_world_size": 1}), "dp_world_size"),
    ("deepspeed", remove(MODEL), "no states of the model"),
    ("deepspeed, ZeRO 3", remove("global_step20/zero_pp_rank_1_mp_rank_00_model_states.pt"), "is missing"),
]


def ckpt(root: Path) -> Path:
    """The newest of Lightning's files."""
    return root / "lightning_logs/version_3/checkpoints/epoch=0-step=20.ckpt"


@pytest.mark.parametrize(("kind", "damage", "said"), TWINS, ids=[f"{kind}-{said}" for kind, _, said in TWINS])
def test_damaged_twins_are_refused(tmp_path: Path, kind: str, damage: Callable[[Path], None], said: str) -> None:
    """What a framework would load, or stumble over, is refused with the reason."""
    framework = FRAMEWORKS[plant(kind, tmp_path).framework]
    damage(tmp_path)
    assert said in refusal(framework, tmp_path, newest(framework, tmp_path))


def test_a_name_with_control_characters_is_refused(planted: tuple[Kind, Path]) -> None:
    """A file's name cannot forge a line of the log."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    found = newest(framework, root)
    if (root / found.name).is_dir():
        (root / found.name / "x\nrefused: nothing").touch()
        assert "control characters" in refusal(framework, root, newest(framework, root))


def test_a_fifo_is_no_file(planted: tuple[Kind, Path]) -> None:
    """Nothing waits for a writer that never comes."""
    kind, root = planted
    framework = FRAMEWORKS[kind.framework]
    name = newest(framework, root).files[0]
    (root / name).unlink()
    os.mkfifo(root / name)
    assert "not a regular file" in refusal(framework, root, newest(framework, root))


def test_the_world_may_be_told(tmp_path: Path) -> None:
    """Where the Trainer's arguments do not say how many ranks there were, the caller may."""
    framework = FRAMEWORKS[plant("hf", tmp_path).framework]
    found = newest(framework, tmp_path)
    assert framework.check(tmp_path, found, 2) == ""
    assert "rng_state_2.pth is missing, and 1 more of 4" in framework.check(tmp_path, found, 4)
    (tmp_path / "checkpoint-20/training_args.bin").unlink()
    (tmp_path / "checkpoint-20/rng_state_1.pth").unlink()
    later = newest(framework, tmp_path)
    assert framework.check(tmp_path, later) == ""
    assert "rng_state_1.pth is missing" in framework.check(tmp_path, later, 2)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=1200.ckpt", 1200),
        ("epoch=3-step=1200-v2.ckpt", 1200),
        ("my-model-00000100.ckpt", 100),
        ("step100.ckpt", 100),
        ("epoch=3.ckpt", None),
        ("hpc_ckpt_4.ckpt", None),
        ("last.ckpt", None),
        ("a1-b2.ckpt", None),
    ],
)
def test_the_step_in_a_lightning_name(tmp_path: Path, name: str, step: int | None) -> None:
    """The step is what the name says it is; an epoch, or a count of requeues, is none."""
    (tmp_path / name).write_bytes(b"x")
    assert [found.step for found in FRAMEWORKS["lightning"].find(tmp_path)] == ([] if step is None else [step])


def test_lightning_versions_sort_as_numbers(tmp_path: Path) -> None:
    """A loggers' tenth folder is newer than its ninth, and a name used again is newer than the first."""
    for version, name in ((9, "step=5.ckpt"), (10, "step=5.ckpt"), (10, "step=5-v1.ckpt")):
        (tmp_path / f"version_{version}").mkdir(exist_ok=True)
        (tmp_path / f"version_{version}" / name).touch()
    assert [found.name for found in FRAMEWORKS["lightning"].find(tmp_path)] == [
        "version_9/step=5.ckpt",
        "version_10/step=5.ckpt",
        "version_10/step=5-v1.ckpt",
    ]
