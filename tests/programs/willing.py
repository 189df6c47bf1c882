"""A training that obeys the orders of `ftslurm inject`, and whose weights tell whether anything was lost or done twice.

It is the demonstration's (`ftslurm.demo.program`): data-parallel in whole numbers, over TCP, without any library, so that
the weights after a step depend on the step's number alone. It ends at a step that all ranks agree on, once the file
--until exists, and leaves its last words beside that file, too: final-RANK.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from ftslurm.demo.program import Place, digest, gradients, load, loss_of, moved, samples, save, summed, together
from ftslurm.faults.willing import Willing
from ftslurm.training import beat, phase


def note(step: int) -> None:
    """A second file for the checkpoint of this step."""
    folder = Path(os.environ["FTSLURM_CHECKPOINT_DIR"])
    part = folder / f".note_{step:08d}"
    part.write_text(f"written at step {step}\n" * 10)
    part.replace(folder / f"step_{step:08d}.note")


def main() -> None:
    """Train until told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", type=Path, required=True)
    parser.add_argument("--pace", type=float, default=0.05)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--load", type=float, default=0.0, help="seconds that a checkpoint takes to be loaded")
    args = parser.parse_args()
    place, willing = Place.from_environment(), Willing.from_environment()
    with phase("load"):
        (step, weights), over = load(), False
        time.sleep(args.load if step else 0.0)
    print(f"loaded step {step}", flush=True)
    share = samples()[place.rank :: place.world]
    with together(place) as channels:
        while not over:
            began = time.monotonic()
            told = willing.obey(step)
            time.sleep(args.pace)
            own = gradients(weights, share)
            busy_s = time.monotonic() - began
            sums, over = summed(place, channels, own, stop=args.until.exists())
            weights = moved(weights, sums)
            if told.flip:
                weights = (weights[0] ^ 1, *weights[1:])
            step += 1
            beat(step, loss=float("nan") if told.nan else loss_of(sums), busy_s=busy_s)
            if place.rank == 0 and step % args.every == 0:
                save(step, weights)
                note(step)
    words = f"final step {step} digest {digest(weights)}"
    print(words, flush=True)
    (args.until.parent / f"final-{place.rank}").write_text(words)


if __name__ == "__main__":
    main()
