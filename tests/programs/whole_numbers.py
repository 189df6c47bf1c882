"""A small data-parallel training in whole numbers, for campaigns of faults: its weights depend on the step alone.

Sums are exact in any order (`ftslurm.demo.program`), so that a run that has lost a node ends with the very weights of
one that nothing happened to. It starts in a quarter of a second, does to itself what it is asked to
(`ftslurm.faults.willing`), and prints its steps and its weights in the form that campaigns read.
"""

from __future__ import annotations

import argparse
import os
import time

from ftslurm.demo.program import Place, digest, gradients, load, loss_of, moved, samples, save, summed, together
from ftslurm.faults.willing import Willing
from ftslurm.training import beat, phase


def now() -> float:
    """The time of the machine, whatever the program believes of it."""
    return time.clock_gettime(time.CLOCK_REALTIME)


def main() -> None:
    """Train until --steps are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--pace", type=float, default=0.05, help="seconds per step")
    args = parser.parse_args()
    place, willing = Place.from_environment(), Willing.from_environment()
    step, weights = load()
    print(f"rank {place.rank} of {place.world} begins at step {step}, pid {os.getpid()}", flush=True)
    share = samples()[place.rank :: place.world]
    with together(place) as channels:
        while step < args.steps:
            began = time.monotonic()
            time.sleep(args.pace)
            told = willing.obey(step)
            own = gradients(weights, share)
            busy_s = time.monotonic() - began
            sums, _ = summed(place, channels, own, stop=False)
            weights = moved(weights, sums)
            step += 1
            beat(step, loss=float("nan") if told.nan else loss_of(sums), busy_s=busy_s)
            if place.rank == 0:
                print(f"step {step} at {now():.3f}", flush=True)
                if step % args.every == 0:
                    with phase("save"):
                        save(step, weights)
    if place.rank == 0:
        print(f"final step {step} digest {digest(weights)}", flush=True)


if __name__ == "__main__":
    main()
