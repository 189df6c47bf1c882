"""Short loops that save with real frameworks at every step, and load; for `framework_saves.py`.

Each loop gets the folder, the checkpoint to begin from (or None) and `report`. Before a save every number of every
parameter is set to the step, so that loading shows whether the checkpoint is what it says.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path

import torch

SIDE = 640
STEPS = 50


def model() -> torch.nn.Module:
    """Some five megabytes, so that a save takes a while."""
    return torch.nn.Sequential(*(torch.nn.Linear(SIDE, SIDE) for _ in range(3)))


def fill(module, step: int) -> None:
    """Every number is the step."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float(step))


def leave(module, step: int) -> None:
    """End with 0 if every number is the step."""
    whole = all(bool((parameter == float(step)).all()) for parameter in module.parameters())
    sys.stdout.flush()
    os._exit(0 if whole else 3)


def step_in(name: str) -> int:
    """The last number in a name."""
    return int(re.findall(r"[0-9]+", name)[-1])


def dcp(folder: Path, resume: Path | None, report) -> None:
    """FSDP2 and torch.distributed.checkpoint, as torchtitan does it."""
    import torch.distributed.checkpoint as saving
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    module = fully_shard(model(), mesh=init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    optimizer = torch.optim.AdamW(module.parameters())
    if resume is not None:
        weights, moments = get_state_dict(module, optimizer)
        saving.load({"model": weights, "optimizer": moments}, checkpoint_id=resume)
        set_state_dict(module, optimizer, model_state_dict=weights, optim_state_dict=moments)
        leave(module, step_in(resume.name))
    for step in range(1, STEPS):
        module(torch.randn(4, SIDE)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        fill(module, step)
        weights, moments = get_state_dict(module, optimizer)
        with report(step):
            saving.save({"model": weights, "optimizer": moments}, checkpoint_id=folder / f"step-{step}")


def hf(folder: Path, resume: Path | None, report) -> None:
    """The Trainer of transformers."""
    import transformers

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = model()

        def forward(self, x, labels):
            return {"loss": (self.layers(x) - labels).square().mean()}

    class Fills(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            if resume is not None:
                leave(model, step_in(resume.name))

        def on_step_end(self, args, state, control, model=None, **kwargs):
            fill(model, state.global_step)

    class Reporting(transformers.Trainer):
        def _save_checkpoint(self, *args, **kwargs):
            with report(self.state.global_step):
                super()._save_checkpoint(*args, **kwargs)

    rows = [{"x": torch.randn(SIDE), "labels": torch.randn(SIDE)} for _ in range(8 * STEPS)]
    settings = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
        per_device_train_batch_size=2, logging_strategy="no",
    )  # fmt: skip
    trainer = Reporting(model=Tiny(), args=settings, train_dataset=rows, callbacks=[Fills()])
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


def lightning(folder: Path, resume: Path | None, report) -> None:
    """The Trainer of Lightning."""
    import lightning as light

    class Tiny(light.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = model()

        def training_step(self, batch, _):
            return self.layers(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

        def on_train_start(self):
            if resume is not None:
                leave(self, self.trainer.global_step if self.trainer.global_step == step_in(resume.stem) else -1)

    class Fills(light.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            fill(module, trainer.global_step)

    class Reporting(light.Trainer):
        def save_checkpoint(self, *args, **kwargs):
            with report(self.global_step):
                super().save_checkpoint(*args, **kwargs)

    rows = torch.utils.data.TensorDataset(torch.randn(8 * STEPS, SIDE))
    saver = light.pytorch.callbacks.ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1)
    trainer = Reporting(
        max_steps=STEPS, accelerator="cpu", strategy="ddp", callbacks=[Fills(), saver], logger=False, enable_progress_bar=False,
        enable_model_summary=False, devices=2, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Tiny(), torch.utils.data.DataLoader(rows, batch_size=2), ckpt_path=resume, weights_only=False)


def deepspeed(folder: Path, resume: Path | None, report) -> None:
    """DeepSpeed with the optimizer's states divided among the ranks (ZeRO 1)."""
    import deepspeed as speed

    speed.init_distributed("gloo")
    module = model()
    settings = {
        "train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 1}, "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    }  # fmt: skip
    engine, *_ = speed.initialize(model=module, model_parameters=module.parameters(), config=settings)
    if resume is not None:
        engine.load_checkpoint(str(resume.parent), tag=resume.name)
        leave(engine.module, step_in(resume.name))
    for _ in range(1, STEPS):
        loss = engine(torch.randn(4, SIDE, dtype=torch.bfloat16)).float().square().mean()
        engine.backward(loss)
        engine.step()
        for group in engine.optimizer.single_partition_of_fp32_groups:
            group.data.fill_(float(engine.global_steps))
        fill(engine.module, engine.global_steps)
        with report(engine.global_steps):
            engine.save_checkpoint(str(folder))


def prepare(name: str) -> None:
    """Import the framework, once for all rounds."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if name == "hf":
        import transformers

        transformers.Trainer  # noqa: B018 - imported when it is named
    elif name == "lightning":
        import lightning.pytorch  # noqa: F401
    elif name == "deepspeed":
        import deepspeed as speed  # noqa: F401


LOOPS = {"dcp": dcp, "hf": hf, "lightning": lightning, "deepspeed": deepspeed}
