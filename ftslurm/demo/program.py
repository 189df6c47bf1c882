"""The demonstration's training: a linear model by gradient descent, data-parallel, in whole numbers.

Every rank takes its share of the samples, rank 0 adds the gradients up and hands the sum back, over TCP. All of it is
fixed-point arithmetic, so sums are exact in any order: the weights after a step depend on the step's number alone, not
on the number of ranks, nor on where the training was interrupted. `trained(step)` says what they must be.

Needs nothing but Python. It is told like any program where checkpoints go and where to go on (FTSLURM_CHECKPOINT_DIR,
FTSLURM_CHECKPOINT), and goes on until a rank was lost and enough was trained afterwards, or somebody asks it to stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any

from ftslurm.training import beat

WIDTH, SAMPLES, LARGEST = 8, 96, 1000
SCALE = 1 << 20
SLOWNESS = 20 * LARGEST * LARGEST
EVERY = 10
AFTER = 30
"""Steps that are trained after the failure; an attempt that is never disturbed stops at MOST."""

MOST = 2000
PACE_S = 0.1
PATIENCE_S = 60.0
REQUESTS = "demo"
STOP = "stop"

Weights = tuple[int, ...]
Sums = tuple[int, ...]


def samples() -> list[tuple[Sums, int]]:
    """All samples: inputs, and what is to be predicted, in fixed point."""
    dice = random.Random(1)  # noqa: S311 - the same data everywhere
    hidden = [dice.randint(-LARGEST, LARGEST) for _ in range(WIDTH)]
    inputs = [tuple(dice.randint(-LARGEST, LARGEST) for _ in range(WIDTH)) for _ in range(SAMPLES)]
    return [(each, sum(map(mul, each, hidden)) * SCALE) for each in inputs]


def gradients(weights: Weights, share: Sequence[tuple[Sums, int]]) -> Sums:
    """The sums of the gradients of a share of the samples, and of its absolute errors."""
    total = [0] * (WIDTH + 1)
    for inputs, wanted in share:
        error = sum(map(mul, inputs, weights)) - wanted
        for place, value in enumerate(inputs):
            total[place] += error * value
        total[WIDTH] += abs(error)
    return tuple(total)


def moved(weights: Weights, sums: Sums) -> Weights:
    """The weights after a step."""
    return tuple(weight - total // (SAMPLES * SLOWNESS) for weight, total in zip(weights, sums, strict=False))


def loss_of(sums: Sums) -> float:
    """The mean absolute error."""
    return sums[WIDTH] / (SAMPLES * SCALE)


def digest(weights: Weights) -> str:
    """The weights in one word."""
    return hashlib.sha256(json.dumps(weights).encode()).hexdigest()[:16]


def trained(steps: int) -> Weights:
    """The weights after so many undisturbed steps."""
    weights, everything = (0,) * WIDTH, samples()
    for _ in range(steps):
        weights = moved(weights, gradients(weights, everything))
    return weights


@dataclass(frozen=True, slots=True)
class Place:
    """This rank in its world, and what it was told."""

    rank: int
    world: int
    address: tuple[str, int]
    requests: Path
    again: bool

    @classmethod
    def from_environment(cls) -> Place:
        """As the rank's environment says."""
        told = os.environ
        return cls(
            rank=int(told["RANK"]),
            world=int(told["WORLD_SIZE"]),
            address=(told["MASTER_ADDR"], int(told["MASTER_PORT"])),
            requests=Path(told["FTSLURM_RUN_DIR"]) / REQUESTS,
            again=int(told["FTSLURM_ATTEMPT"]) > 0,
        )

    def obey(self, step: int) -> bool:
        """Die if that is asked for; tell whether to stop. A folder's list is fresher than a file's absence on NFS."""
        asked = os.listdir(self.requests)
        if f"kill-{self.rank}" in asked and not self.again:
            print(f"rank {self.rank} is asked to kill itself at step {step}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return STOP in asked


class Channel:
    """One line of JSON each way."""

    def __init__(self, connection: socket.socket) -> None:
        """Take a connection over."""
        connection.settimeout(PATIENCE_S)
        self._file = connection.makefile("rwb")

    def send(self, value: Any) -> None:  # noqa: ANN401 - JSON
        """Send a value."""
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()

    def receive(self) -> Any:  # noqa: ANN401 - JSON
        """The next value.

        Raises:
            ConnectionError: the other side has gone.
        """
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("a rank has gone")
        return json.loads(line)


@contextmanager
def together(place: Place) -> Iterator[list[Channel]]:
    """The channels of rank 0 to all others, in their order; of any other rank to rank 0."""
    if place.rank:
        with _reached(place.address) as connection:
            channel = Channel(connection)
            channel.send(place.rank)
            yield [channel]
        return
    with socket.create_server(("", place.address[1]), backlog=place.world) as server:
        server.settimeout(PATIENCE_S)
        channels: dict[int, Channel] = {}
        while len(channels) < place.world - 1:
            channel = Channel(server.accept()[0])
            channels[channel.receive()] = channel
        yield [channels[rank] for rank in sorted(channels)]


def _reached(address: tuple[str, int]) -> socket.socket:
    """A connection to rank 0, which may not listen yet."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(address, timeout=PATIENCE_S)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(PACE_S)


def summed(place: Place, channels: Sequence[Channel], own: Sums, *, stop: bool) -> tuple[Sums, bool]:
    """The sums over all ranks, and whether any of them wants to stop; the same on all."""
    if place.rank:
        channels[0].send([own, stop])
        found, stops = channels[0].receive()
        return tuple(found), bool(stops)
    parts = [(own, stop), *(channel.receive() for channel in channels)]
    whole = tuple(map(sum, zip(*(part for part, _ in parts), strict=True)))
    stops = any(wish for _, wish in parts)
    for channel in channels:
        channel.send([whole, stops])
    return whole, stops


def save(step: int, weights: Weights) -> None:
    """A checkpoint, which has its name only once all of it is on the disk."""
    folder = Path(os.environ["FTSLURM_CHECKPOINT_DIR"])
    part = folder / f".step_{step:08d}"
    with part.open("w") as file:
        json.dump({"step": step, "weights": weights}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / f"step_{step:08d}.json")


def load() -> tuple[int, Weights]:
    """Where to go on, as told."""
    told = os.environ.get("FTSLURM_CHECKPOINT")
    if not told:
        return 0, (0,) * WIDTH
    path = Path(told)
    state = json.loads((max(path.glob("step_*.json")) if path.is_dir() else path).read_text())
    return state["step"], tuple(state["weights"])


def main() -> None:
    """Train."""
    place = Place.from_environment()
    step, weights = load()
    last = step + AFTER if place.again else MOST
    print(f"rank {place.rank} of {place.world} begins at step {step}, pid {os.getpid()}", flush=True)
    share = samples()[place.rank :: place.world]
    stop = False
    with together(place) as channels:
        while step < last and not stop:
            time.sleep(PACE_S)
            sums, stop = summed(place, channels, gradients(weights, share), stop=place.obey(step))
            weights = moved(weights, sums)
            step += 1
            beat(step, loss=loss_of(sums))
            if place.rank == 0 and step % EVERY == 0:
                save(step, weights)
                print(f"step {step} error {loss_of(sums):.3f}", flush=True)
    if place.rank == 0:
        print(f"final step {step} digest {digest(weights)}", flush=True)


if __name__ == "__main__":
    main()
