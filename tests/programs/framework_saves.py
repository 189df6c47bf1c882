"""Forks two ranks that save with a real framework, and kills them in the middle of a save; or lets them load.

    framework_saves.py FRAMEWORK

The framework is imported once. Each line on stdin is answered by one on stdout:

    cut FOLDER SEED       {"begun": [1, 2, 3], "saved": [1, 2]}   steps whose save began, or returned, on both ranks
    load CHECKPOINT       {"loads": true}                         both ranks have loaded it, and it is what it says
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from framework_loops import LOOPS, prepare

WORLD = 2


class Report:
    """What a rank says about its saves: lines too short to be torn, into a pipe."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    @contextlib.contextmanager
    def __call__(self, step: int):
        """Around a save."""
        os.write(self._pipe, f"begin {step}\n".encode())
        yield
        os.write(self._pipe, f"saved {step}\n".encode())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def fork(name: str, folder: Path, resume: Path | None) -> list[tuple[int, int]]:
    """Both ranks: process id and the end of its pipe."""
    ranks = []
    port = free_port()
    for rank in range(WORLD):
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reads)
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "cut", "GROUP_RANK": "0",
            }  # fmt: skip
            try:
                LOOPS[name](folder, resume, Report(writes))
            except BaseException:  # noqa: BLE001 - the child must not go on as the parent
                traceback.print_exc()
            os._exit(1)
        os.close(writes)
        ranks.append((child, reads))
    return ranks


def cut(name: str, folder: Path, seed: int) -> dict[str, list[int]]:
    """Let it save once or twice, then kill both ranks somewhere in the next save."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    ranks = fork(name, folder, None)
    lines = ["", ""]
    wanted = chance.randint(2, 3)
    began = took_s = 0.0
    while f"begin {wanted}\n" not in lines[0]:
        said = os.read(ranks[0][1], 4096).decode()
        if not said:
            break
        lines[0] += said
        took_s = time.monotonic() - began if "saved" in said else took_s
        began = time.monotonic() if "begin" in said else began
    time.sleep(chance.uniform(0, took_s))
    for rank in chance.sample(ranks, WORLD):
        os.kill(rank[0], signal.SIGKILL)
    for number, (child, pipe) in enumerate(ranks):
        while said := os.read(pipe, 4096).decode():
            lines[number] += said
        os.close(pipe)
        os.waitpid(child, 0)
    begun, saved = (
        sorted(
            set.intersection(*({int(line.split()[1]) for line in text.splitlines() if word in line} for text in lines))
        )
        for word in ("begin", "saved")
    )
    return {"begun": begun, "saved": saved}


def load(name: str, checkpoint: Path) -> dict[str, bool]:
    """Whether both ranks load a checkpoint, and find in it what it says."""
    ranks = fork(name, checkpoint.parent, checkpoint)
    codes = [os.waitpid(child, 0)[1] for child, _ in ranks]
    return {"loads": codes == [0] * WORLD}


def main() -> None:
    """Answer the lines on stdin."""
    name = sys.argv[1]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # frameworks print when they are imported
    prepare(name)
    for line in sys.stdin:
        word, path, *rest = line.split()
        answer = cut(name, Path(path), int(rest[0])) if word == "cut" else load(name, Path(path))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
