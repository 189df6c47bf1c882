"""A tiny GPT-2 with the Trainer of transformers, on one rank or many. The line that makes it go on is marked `# <-`."""

import argparse

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output_dir", default="checkpoints")
parser.add_argument("--max_steps", type=int, default=60)
parser.add_argument("--save_steps", type=int, default=10)
parser.add_argument("--resume_from_checkpoint")
args = parser.parse_args()

torch.manual_seed(0)
tokens = torch.randint(0, 64, (256, 16))
settings = TrainingArguments(
    output_dir=args.output_dir,
    max_steps=args.max_steps,
    save_steps=args.save_steps,
    logging_steps=args.save_steps,
    per_device_train_batch_size=4,
    report_to=[],
    disable_tqdm=True,
    use_cpu=not torch.cuda.is_available(),
)
trainer = Trainer(
    model=GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2)),
    args=settings,
    train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
)
trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)  # <- a path, never True
print(f"done at step {trainer.state.global_step}", flush=True)
