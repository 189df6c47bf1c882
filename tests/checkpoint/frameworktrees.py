"""Small checkpoints of every framework, in their form as recorded from the frameworks' own releases, two of each.

`python -m tests.checkpoint.frameworktrees FOLDER` writes them all, to be looked at. Recorded from transformers 5.24,
lightning 2.6, torch 2.13, megatron-core 0.16 (the form of one folder for each rank: from the source of Megatron-LM) and
deepspeed 0.19.
"""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

STEPS = (10, 20)


def saved(path: Path, record: object) -> None:
    """A file of torch.save."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(record, path)


def safetensors(path: Path, keys: tuple[str, ...]) -> None:
    """A file of safetensors: the length of the header, the header, four bytes for each key."""
    header = {key: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n, key in enumerate(keys)}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0\0\x80?" * len(keys))


def distributed(folder: Path, ranks: int = 2) -> None:
    """What torch.distributed.checkpoint writes: one file a rank, with half of one tensor and an object in the first."""
    folder.mkdir(parents=True, exist_ok=True)
    half = torch.Size([2, 3])
    chunks = [ChunkStorageMetadata(offsets=torch.Size([2 * rank, 0]), sizes=half) for rank in range(ranks)]
    whole = TensorStorageMetadata(
        properties=TensorProperties(dtype=torch.bfloat16), size=torch.Size([2 * ranks, 3]), chunks=chunks
    )
    places = {
        MetadataIndex("model.w", chunk.offsets, rank): _StorageInfo(f"__{rank}_0.distcp", 0, 500 + rank)
        for rank, chunk in enumerate(chunks)
    }
    places[MetadataIndex("step")] = _StorageInfo("__0_0.distcp", 500, 80)
    told = Metadata(
        state_dict_metadata={"model.w": whole, "step": BytesStorageMetadata()},
        planner_data={"model.w": ("model", "w"), "step": ("step",)},
        storage_data=places,
    )
    (folder / ".metadata").write_bytes(pickle.dumps(told))
    for rank in range(ranks):
        (folder / f"__{rank}_0.distcp").write_bytes(b"x" * (580 if rank == 0 else 500 + rank))


def hf(root: Path, step: int) -> None:
    """Two ranks, the model in two shards."""
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for key, shard in shards.items():
        safetensors(folder / shard, (key,))
    index = {"metadata": {"total_size": 8}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    state = {"global_step": step, "epoch": 0.5, "log_history": [{"loss": float("nan"), "step": step}]}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")
    saved(folder / "optimizer.pt", {"state": {0: torch.ones(3)}, "param_groups": []})
    saved(folder / "scheduler.pt", {"last_epoch": step})
    saved(folder / "training_args.bin", SimpleNamespace(distributed_state=SimpleNamespace(num_processes=2)))
    for rank in range(2):
        saved(folder / f"rng_state_{rank}.pth", {"cpu": torch.zeros(4, dtype=torch.uint8)})


def lightning(root: Path, step: int) -> None:
    """One file, where a logger would have it."""
    folder = root / "lightning_logs" / "version_3" / "checkpoints"
    saved(folder / f"epoch=0-step={step}.ckpt", _lightning_state(step) | {"state_dict": {"w": torch.ones(3)}})


def lightning_folder(root: Path, step: int) -> None:
    """FSDP with a file for each rank."""
    folder = root / f"epoch=0-step={step}.ckpt"
    distributed(folder)
    saved(folder / "meta.pt", _lightning_state(step))


def _lightning_state(step: int) -> dict[str, object]:
    return {"epoch": 0, "global_step": step, "loops": {}, "optimizer_states": [{}], "lr_schedulers": []}


def dcp(root: Path, step: int) -> None:
    """As torchtitan names them."""
    distributed(root / f"step-{step}")


def megatron(root: Path, step: int) -> None:
    """Tensor parallelism 2, pipeline parallelism 2, each optimizer divided among the data-parallel ranks."""
    told = argparse.Namespace(
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=2,
        expert_model_parallel_size=1,
        use_distributed_optimizer=True,
        no_save_optim=None,
    )
    for tensor in range(2):
        for pipeline in range(2):
            folder = root / f"iter_{step:07d}" / f"mp_rank_{tensor:02d}_{pipeline:03d}"
            saved(folder / "model_optim_rng.pt", {"args": told, "iteration": step, "model": {"w": torch.ones(2)}})
            saved(folder / "distrib_optim.pt", {"param": torch.ones(2)})
    (root / "latest_checkpointed_iteration.txt").write_text(str(step))


def megatron_distributed(root: Path, step: int) -> None:
    """`--ckpt-format torch_dist`, the default."""
    folder = root / f"iter_{step:07d}"
    distributed(folder)
    saved(folder / "common.pt", {"iteration": step, "args": argparse.Namespace(tensor_model_parallel_size=2)})
    described = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch"}
    (folder / "metadata.json").write_text(json.dumps(described))
    (root / "latest_checkpointed_iteration.txt").write_text(str(step))


def deepspeed(root: Path, step: int) -> None:
    """ZeRO 1 or 2 on two ranks."""
    folder = root / f"global_step{step}"
    saved(folder / "mp_rank_00_model_states.pt", _deepspeed_state(step) | {"module": {"w": torch.ones(3)}})
    for rank in range(2):
        saved(folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", {"optimizer_state_dict": {}})
    _deepspeed_pointer(root, folder)


def deepspeed_whole(root: Path, step: int) -> None:
    """ZeRO 3: the model is divided among the ranks, too."""
    folder = root / f"global_step{step}"
    for rank in range(2):
        saved(folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", _deepspeed_state(step))
        saved(folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", {"optimizer_state_dict": {}})
    _deepspeed_pointer(root, folder)


def _deepspeed_state(step: int) -> dict[str, object]:
    return {"global_steps": step, "dp_world_size": 2, "mp_world_size": 1, "optimizer": None}


def _deepspeed_pointer(root: Path, folder: Path) -> None:
    (root / "latest").write_text(folder.name)
    (root / "zero_to_fp32.py").write_text("# turns the shards into one file\n")


@dataclass(frozen=True, slots=True)
class Kind:
    """A form of a framework's checkpoints. `optional`: files that may be missing."""

    framework: str
    write: Callable[[Path, int], None]
    optional: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()
    """Files that do not tell where they end."""


KINDS = {
    "hf": Kind("hf", hf, optional=("config.json", "training_args.bin")),
    "lightning": Kind("lightning", lightning),
    "lightning, a folder": Kind("lightning", lightning_folder),
    "dcp": Kind("dcp", dcp),
    "megatron": Kind("megatron", megatron),
    "megatron, distributed": Kind("megatron", megatron_distributed),
    "deepspeed": Kind("deepspeed", deepspeed, optional=("zero_to_fp32.py",), mute=("zero_to_fp32.py",)),
    "deepspeed, ZeRO 3": Kind("deepspeed", deepspeed_whole, optional=("zero_to_fp32.py",), mute=("zero_to_fp32.py",)),
}


def plant(name: str, root: Path) -> Kind:
    """Two checkpoints of a kind."""
    for step in STEPS:
        KINDS[name].write(root, step)
    return KINDS[name]


if __name__ == "__main__":
    for kind in KINDS:
        plant(kind, Path(sys.argv[1]) / kind.replace(", ", "-").replace(" ", "-"))
