"""A second process that draws the pictures of the nodes while this one draws all others.

Drawing is most of the time that a report takes, and those pictures are half of it. The helper loads matplotlib while
the run is still being read. It is a help only: where there is none, where it ends early or takes too long, its pictures
are drawn here, and are the same.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftslurm.insight.checkpoints import Checkpoint
from ftslurm.insight.records import Story
from ftslurm.report.progress import Progress
from ftslurm.report.samples import Samples

if TYPE_CHECKING:
    from ftslurm.paths import RunPaths
    from ftslurm.report.contents import Contents
    from ftslurm.report.pictures import Drawn

log = logging.getLogger(__name__)

MODULE = "ftslurm.report.helper"
DRAW_S = 60.0
END_S = 5.0
PICTURES = ("system_resources", "anomaly_detection_heatmap")


class Helper:
    """One such process. `begin` once, then ask for what was `drawn`; `close` in any case."""

    def __init__(self) -> None:
        """Raises OSError where there can be no more processes."""
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for who started it
        )
        self._thread: threading.Thread | None = None
        self._answer = b""

    def begin(self, contents: Contents, alts: Mapping[str, str]) -> None:
        """Have the pictures of these names drawn, of which we know what they show."""
        work = pickle.dumps((_small(contents), dict(alts)))
        self._thread = threading.Thread(target=self._talk, args=(work,), name="helper", daemon=True)
        self._thread.start()

    def drawn(self) -> Mapping[str, Drawn]:
        """What it has drawn by name; empty where it has failed."""
        if self._thread is None:
            return {}
        self._thread.join(DRAW_S)
        if self._thread.is_alive() or self._child.returncode != 0:
            log.info("the helper has not drawn its pictures")
            return {}
        found: Mapping[str, Drawn] = pickle.loads(self._answer)  # noqa: S301 - our own child's, by our own pipe
        return found

    def close(self) -> None:
        """End it."""
        self._child.kill()
        try:
            if self._thread is None:
                self._child.communicate(timeout=END_S)
            else:
                self._thread.join(END_S)
                self._child.wait(END_S)
        except subprocess.TimeoutExpired:  # it hangs in the kernel, on a folder that does not answer
            log.warning("the helper, process %d, does not end", self._child.pid)

    def _talk(self, work: bytes) -> None:
        self._answer, _ = self._child.communicate(work)


@contextmanager
def helped(paths: RunPaths, *, wanted: bool = True) -> Iterator[Helper | None]:
    """A helper for the report of this run, where it pays: it has samples, and there is a second core."""
    from importlib.util import find_spec

    helper = None
    if wanted and len(os.sched_getaffinity(0)) > 1 and paths.samples.is_dir() and find_spec("matplotlib") is not None:
        try:
            helper = Helper()
        except OSError as error:
            log.info("there is no helper: %s", error)
    try:
        yield helper
    finally:
        if helper is not None:
            helper.close()


def _small(contents: Contents) -> Contents:
    """Only what the pictures of the nodes are made of."""
    nothing: tuple[Checkpoint, ...] = ()
    return dataclasses.replace(
        contents, story=Story(), intervals=(), progress=Progress(), checkpoints=nothing, samples=Samples()
    )


def main() -> None:
    """Draw what is asked for on stdin, and give it on stdout."""
    from ftslurm.report import canvas, pictures

    gc.disable()  # it ends before there is much
    canvas.load()
    contents, alts = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own parent's, by a pipe
    with canvas.style():
        drawn = {name: pictures.draw(name, contents, alt) for name, alt in alts.items()}
    sys.stdout.buffer.write(pickle.dumps(drawn))


if __name__ == "__main__":
    main()
