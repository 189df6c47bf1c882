"""An agent's record of what its node uses, for `ftslurm report`: a line of JSON every few seconds.

`<run>/samples/<node>.<epoch>.jsonl` lies on shared storage, which may hang: one thread reads the node, another one
writes. Between them wait at most `WAITING` lines; what does not fit, or cannot be written, is counted, and the next
line that can be written says how many are `missed`. Nothing goes over the control channel, and no decision rests on it.

The size is bounded: after every `STRETCH` bytes the time between two lines doubles, and a file that has `MOST` bytes is
full. With lines of 300 bytes every 5 s that is the first 7 hours at 5 s, two months in all. Nodes read at moments of
their own within the period, so that shared storage never has all of them at once. It is not fsynced: the kernel may
write many lines at once, and a node that is lost takes its last seconds with it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.paths import PRIVATE_FILE, PRIVATE_FOLDER
from ftslurm.runtime.resources import Meter

log = logging.getLogger(__name__)

WAITING = 60
STRETCH = 3 << 19
MOST = 8 * STRETCH
RANKS = 16
"""Of so many ranks on a node the steps are told; of more only the first and the last of them."""
LAST_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is sampled beside the node's own counters; each answers at once, from memory.

    `gpus` gives values by metric and device, as in `gpu_utilization/gpu0`; `steps` the attempt and its ranks' steps.
    """

    scratch: Path | None
    gpus: Callable[[], Mapping[str, float]]
    steps: Callable[[], tuple[int | None, Mapping[int, int]]]


class Sampler:
    """Samples one node until it is stopped."""

    def __init__(self, path: Path, every_s: float, sources: Sources) -> None:
        """`every_s` 0: nothing is sampled."""
        self._every_s = every_s
        self._sources = sources
        self._file = SampleFile(path)
        self._shift_s = (zlib.crc32(path.name.encode()) % 1000) / 1000 * every_s
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def start(self) -> None:
        """Begin, if there is anything to do."""
        if self._every_s:
            self._file.start()
            self._thread.start()

    def stop(self) -> None:
        """Take no more, and leave what shared storage does not take within a second."""
        self._leaving.set()
        if self._every_s:
            self._file.stop(LAST_S)

    def _run(self) -> None:
        meter = Meter(self._sources.scratch)
        meter.read()
        while not self._leaving.wait(self._pause_s()):
            self._file.put(self._sample(meter))
        self._file.put(self._sample(meter))

    def _pause_s(self) -> float:
        every_s = self._every_s * self._file.stride
        return every_s - (time.time() - self._shift_s) % every_s

    def _sample(self, meter: Meter) -> dict[str, Any]:
        attempt, steps = self._sources.steps()
        ranks = sorted(steps)
        kept = ranks if len(ranks) <= RANKS else [ranks[0], ranks[-1]]
        sample: dict[str, Any] = {"t": round(time.time(), 2), **meter.read()}
        gpus = dict(self._sources.gpus())
        if gpus:
            sample["gpus"] = gpus
        if kept:
            sample |= {"attempt": attempt, "steps": {str(rank): steps[rank] for rank in kept}}
        return sample


class SampleFile:
    """One file, written by a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)
        self._lock = threading.Lock()
        self._missed = 0
        self._size = 0
        self._handle = -1
        self._torn = False
        self._thread = threading.Thread(target=self._run, name="samples-file", daemon=True)

    @property
    def stride(self) -> int:
        """How many times longer the time between two lines is than at first."""
        return 1 << min(self._size // STRETCH, 8)

    def start(self) -> None:
        """Begin to write what is put."""
        self._thread.start()

    def put(self, sample: dict[str, Any]) -> None:
        """Hand a sample over, or count it as missed; never waits."""
        try:
            self._queue.put_nowait(sample)
        except queue.Full:
            self._miss(1)

    def stop(self, timeout_s: float) -> None:
        """Write what is left, for so long at most."""
        deadline = time.monotonic() + timeout_s
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(max(deadline - time.monotonic(), 0.0))

    def _miss(self, count: int) -> None:
        with self._lock:
            self._missed += count

    def _run(self) -> None:
        while (sample := self._queue.get()) is not None:
            with self._lock:
                missed, self._missed = self._missed, 0
            try:
                self._write(sample | ({"missed": missed} if missed else {}))
            except OSError as error:
                log.warning("a sample cannot be written to %s: %s", self._path, error.strerror)
                self._miss(missed + 1)
                self._close()

    def _write(self, sample: dict[str, Any]) -> None:
        if self._handle < 0:
            self._open()
        if self._size >= MOST:
            return
        # What an error left of a line ends here, and is no line for a reader.
        data = (b"\n" if self._torn else b"") + json.dumps(sample, separators=(",", ":")).encode() + b"\n"
        self._torn = True
        done = os.write(self._handle, data)
        self._size += done
        self._torn = done < len(data)

    def _open(self) -> None:
        self._path.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(self._path, flags, PRIVATE_FILE)
        self._size = os.fstat(self._handle).st_size

    def _close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            try:
                os.close(handle)
            except OSError as error:
                log.info("closing %s: %s", self._path, error.strerror)
