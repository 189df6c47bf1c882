"""Trainings with real frameworks, each saving as its users let it save, until somebody has enough.

    framework_trainings.py dcp|hf|lightning --output FOLDER [--until FILE] [--steps N] [--every N] [--pace S]
                           [--load-step N | --resume PATH]

What they have in common: AdamW, a checkpoint of some megabytes at every --every steps, and numbers that follow from the
step and the rank alone, so that the same world ends with the same weights whatever happened on the way. Each rank says
what it starts from, and at its end the digest of all weights.

`dcp` is like torchtitan: FSDP2, a folder step-N for every save, the newest few are kept; it loads step-N if it is told
the step, else its newest folder that has `.metadata`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

WIDTH = 768
BATCH = 24
KEEP = 4


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("framework", choices=LOOPS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--until", type=Path)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--load-step", type=int)
    parser.add_argument("--resume", type=Path)
    return parser.parse_args()


def enough(args: argparse.Namespace, step: int) -> bool:
    """Whether to end after this step: all ranks say the same."""
    time.sleep(args.pace)
    wish = torch.tensor(int(args.until is not None and args.until.exists()))
    dist.all_reduce(wish, dist.ReduceOp.MAX)
    return step >= args.steps or bool(wish)


def layers() -> torch.nn.Sequential:
    """Some seven megabytes of weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(3)))


def batch(step: int) -> torch.Tensor:
    """This rank's share of the batch of a step."""
    whole = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(step))
    return whole[dist.get_rank() :: dist.get_world_size()]


def starts(step: int, path: object) -> None:
    """Say what this rank starts from."""
    print(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} starts at step {step} from {path}", flush=True)


def ends(step: int, weights: dict[str, torch.Tensor]) -> None:
    """Say what this rank ends with."""
    total = hashlib.sha256()
    for name, value in sorted(weights.items()):
        total.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    print(f"rank {os.environ['RANK']} ends at step {step} with {total.hexdigest()[:16]}", flush=True)


# ------------------------------------------------------------------------------------------------------------- dcp


def step_folders(output: Path) -> dict[int, Path]:
    """The folders of all steps, oldest first."""
    found = {int(path.name.partition("-")[2]): path for path in output.glob("step-*")}
    return dict(sorted(found.items()))


def dcp(args: argparse.Namespace) -> None:
    """FSDP2 and torch.distributed.checkpoint."""
    import torch.distributed.checkpoint as saving
    from torch.distributed.checkpoint import state_dict as states
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    class Training:
        step = 0

        def state_dict(self):
            weights, moments = states.get_state_dict(model, optimizer)
            return {"model": weights, "optimizer": moments, "step": self.step}

        def load_state_dict(self, state):
            states.set_state_dict(
                model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
            )
            self.step = state["step"]

    dist.init_process_group("gloo")
    model = fully_shard(layers(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    training = Training()
    whole = [step for step, path in step_folders(args.output).items() if (path / ".metadata").exists()]
    newest = args.load_step if args.load_step is not None else max(whole, default=None)
    if newest is not None:
        saving.load({"training": training}, checkpoint_id=args.output / f"step-{newest}")
    starts(training.step, "nothing" if newest is None else args.output / f"step-{newest}")
    while True:
        (model(batch(training.step)) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        training.step += 1
        if training.step % args.every == 0:
            saving.save({"training": training}, checkpoint_id=args.output / f"step-{training.step}")
            if dist.get_rank() == 0:
                for path in list(step_folders(args.output).values())[:-KEEP]:
                    shutil.rmtree(path)
        if enough(args, training.step):
            break
    options = states.StateDictOptions(full_state_dict=True)
    ends(training.step, states.get_model_state_dict(model, options=options))
    dist.barrier()
    dist.destroy_process_group()


# -------------------------------------------------------------------------------------------------------------- hf


def hf(args: argparse.Namespace) -> None:
    """A small GPT-2 and the Trainer of transformers, with dropout."""
    import transformers

    class Watching(transformers.TrainerCallback):
        def on_train_begin(self, arguments, state, control, **kwargs):
            starts(state.global_step, args.resume or "nothing")

        def on_step_end(self, arguments, state, control, **kwargs):
            control.should_training_stop = enough(args, state.global_step)

    torch.manual_seed(0)
    tokens = torch.randint(0, 64, (4096, 16))
    settings = transformers.TrainingArguments(
        output_dir=str(args.output), max_steps=1_000_000, save_steps=args.every, save_total_limit=KEEP, report_to=[],
        per_device_train_batch_size=4, lr_scheduler_type="constant", logging_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    sizes = {"vocab_size": 64, "n_positions": 16, "n_embd": 256, "n_layer": 3, "n_head": 4}
    trainer = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)),
        args=settings,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
        callbacks=[Watching()],
    )
    trainer.train(resume_from_checkpoint=None if args.resume is None else str(args.resume))
    ends(trainer.state.global_step, trainer.model.state_dict())


# ------------------------------------------------------------------------------------------------------- lightning


def lightning(args: argparse.Namespace) -> None:
    """The Trainer of Lightning."""
    import lightning as light

    class Tiny(light.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = layers()

        def training_step(self, rows, _):
            self.log("newness", float(self.global_step))
            return (self.layers(batch(self.global_step)) - 1).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    class Watching(light.Callback):
        def on_train_start(self, trainer, module):
            starts(trainer.global_step, args.resume or "nothing")

        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = enough(args, trainer.global_step)

    local = int(os.environ["LOCAL_WORLD_SIZE"])
    saver = light.pytorch.callbacks.ModelCheckpoint(
        dirpath=args.output, every_n_train_steps=args.every, save_top_k=KEEP, monitor="newness", mode="max"
    )
    trainer = light.Trainer(
        max_steps=1_000_000, accelerator="cpu", strategy="ddp", callbacks=[Watching(), saver], logger=False, devices=local,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = Tiny()
    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(1_000_000, 1)), batch_size=1)
    trainer.fit(model, rows, ckpt_path=args.resume)
    ends(trainer.global_step, model.state_dict())


LOOPS = {"dcp": dcp, "hf": hf, "lightning": lightning}


def main() -> None:
    """Train."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    args = parse()
    LOOPS[args.framework](args)


if __name__ == "__main__":
    main()
