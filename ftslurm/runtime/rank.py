"""The rank wrapper: starts one rank of an attempt, keeps its output, tells the node's agent how it ended.

Run by the launcher as `python -I -S rank.py -- COMMAND ARGS...`, once a task, also inside the user's container: it
needs `FILES` beside it and a Python from 3.8 on, nothing else. Heavy imports wait until it has registered.

- The program must not notice us. A thread of its own carries its output to a node-local file; a disk that is full or
  broken never fails a write of the program. Lines are not altered.
- The agent may die: the wrapper connects again (port and key are read anew), says who it is, and training goes on.
  Without any agent for FTSLURM_ORPHAN_AFTER seconds it kills the program, because nobody else could.
- Killing means the tree: the wrapper is a child subreaper, so daemons and workers cannot get away (prctl(2)).
"""
# No pathlib: importing it takes longer than all that is done before the rank has registered.
# ruff: noqa: PTH120, PTH123

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from threading import Thread
    from typing import Any

if TYPE_CHECKING or __package__:
    from ftslurm.runtime.pump import Pump, ecs_line
    from ftslurm.runtime.wire import Link
else:  # run as a file, where -I has left its folder out of the path
    sys.path.append(os.path.dirname(os.path.realpath(__file__)))
    from pump import Pump, ecs_line
    from wire import Link

FILES = ("rank.py", "pump.py", "wire.py")
NOT_FOUND, NOT_STARTED, KILLED, ORPHANED = 127, 126, 137, 75
ACK_S, DRAIN_S, KILL_S, NOTE_S = 30.0, 30.0, 10.0, 1.0
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PR_SET_PTRACER, ANY_OF_OURS = 0x59616D61, 2**64 - 1
# Rank, world size, local rank. Under mpirun SLURM_PROCID is 0 for all: Slurm has started one daemon a node.
IDENTITY = {
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS SLURM_NTASKS", "SLURM_LOCALID"),
    "mpirun": (
        "PMIX_RANK OMPI_COMM_WORLD_RANK PMI_RANK MV2_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE PMI_SIZE MV2_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK MPI_LOCALRANKID MV2_COMM_WORLD_LOCAL_RANK",
    ),
}
# $1 is "modules" where some are wanted. The set-up lines follow; the last line replaces bash by the command.
PROLOGUE = """__ftslurm_argv=("${@:2}") __ftslurm_line='(start)'
trap 'c=$?; trap - EXIT; echo "ftslurm: set-up ended with code $c in: $__ftslurm_line" >&2; exit 126' EXIT
for f in "$MODULESHOME/init/bash" "$LMOD_PKG/init/bash" /etc/profile.d/modules.sh /etc/profile.d/lmod.sh; do
  if [ "$1" = modules ] && ! type module >/dev/null 2>&1 && [ -r "$f" ]; then . "$f"; fi
done; set --"""
EPILOGUE = 'set +e; trap - EXIT; exec "${__ftslurm_argv[@]}"'


def script(modules: Iterable[str], setup: Iterable[str]) -> str:
    """The bash program that prepares the environment and becomes the command; the first failure ends it by name."""
    lines = ["module load " + _quoted(name) for name in modules] + list(setup)
    steps = [f'__ftslurm_line={_quoted(line)}; set -e; eval "$__ftslurm_line"' for line in lines]
    return "\n".join([PROLOGUE, *steps, EPILOGUE])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def identity(environ: Mapping[str, str]) -> tuple[int, int, int | None]:
    """(rank, world size, local rank) as the launcher has set them. Raises ValueError: it has not."""
    names = IDENTITY[environ.get("FTSLURM_LAUNCHER") or "srun"]
    rank, world, local = (next((int(environ[n]) for n in some.split() if environ.get(n)), None) for some in names)
    if rank is None or world is None:
        raise ValueError("no launcher has said which rank this is: start it through srun or mpirun")
    return rank, world, local


def stat_of(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the third on: state, parent, ...; the start time is the 20th (proc(5))."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def descendants(root: int) -> list[int]:
    """Every process below `root`, parents first, as of about now."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            children.setdefault(int(stat_of(name)[1]), []).append(int(name))
        except (OSError, IndexError):  # noqa: PERF203
            continue  # it has ended meanwhile
    found = list(children.get(root, ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def workers(pids: Iterable[int]) -> dict[int, int]:
    """The ranks among these processes, parents first, that torchrun has started; ROLE_RANK is a name of its own."""
    found: dict[int, int] = {}
    for pid in pids:
        with suppress(OSError, ValueError):  # it has ended meanwhile, or is not ours to read
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = dict(pair.partition(b"=")[::2] for pair in file.read().split(b"\0"))
            if b"ROLE_RANK" in environ:
                found.setdefault(int(environ[b"RANK"]), pid)
    return found


def kill(send: Callable[[int, int], None], target: int, signum: int = signal.SIGKILL) -> None:
    """Call os.kill or os.killpg; a target that is gone, or that is not ours (setuid), is left alone."""
    with suppress(ProcessLookupError, PermissionError):
        send(target, signum)


def prctl() -> Callable[[int, int], object]:
    """The system call, or a function that does nothing where Python has no ctypes: the agent's fence remains."""
    try:
        import ctypes

        call = ctypes.CDLL(None).prctl
        return lambda option, value: call(option, ctypes.c_ulong(value), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return lambda _option, _value: None


class Wrapper:
    """One rank: waiting for the agent's word, then running, then exited."""

    def __init__(self, environ: Mapping[str, str], command: Sequence[str]) -> None:
        rank, world, local = identity(environ)
        several = int(environ.get("FTSLURM_RANKS_PER_TASK") or 0)  # the program is torchrun, and starts so many ranks
        rank, world, self._starts_ranks = rank * (several or 1), world * (several or 1), several > 0
        self._environ, self._command = environ, list(command)
        self._about = {"attempt": int(environ["FTSLURM_ATTEMPT"]), "rank": rank}
        self._place = {"world": world, "ranks": several, "local_rank": local, "host": socket.gethostname()}
        self._agent_wait_s = float(environ.get("FTSLURM_AGENT_WAIT") or 60)
        self._orphan_after_s = float(environ.get("FTSLURM_ORPHAN_AFTER") or 20)
        self._link, self._pump = Link(environ, {"role": "rank", **self._about}), Pump(os.devnull)
        self._notes, self._began, self._asked = Pump(os.devnull), 0.0, False  # lines of our own; whether we are to kill
        self._state, self._child, self._status, self._caught = "waiting", 0, 0, []  # type: str, int, int, list[int]
        self._exit: dict[str, Any] = {}
        self._exited_at, self._acked = 0.0, False
        self._carrier: Thread | None = None
        self._wake, ring = os.pipe()
        os.set_blocking(ring, False)
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken
        for signum in FORWARDED:
            signal.signal(signum, lambda signum, _: self._caught.append(signum))

    def serve(self) -> int:
        """Do all there is to do; return the code to exit with."""
        while True:
            for message in self._link.step(self._wake, self._introduce):
                self._obey(message)
            while self._caught:
                self._pass_on(self._caught.pop(0), "child")
            if self._state == "running" and self._has_ended():
                self._finish()
            code = self._verdict()
            if code is not None:
                return code

    def _introduce(self) -> None:
        about = {**self._about, **self._place, "node": self._link.node, "state": self._state}
        process = {"pid": os.getpid(), "start": int(stat_of("self")[19]), "child": self._child or None}
        self._link.send({"t": "register", **about, **process})
        if self._exit:
            self._link.send(self._exit)

    def _obey(self, message: Mapping[str, Any]) -> None:
        kind, state = message.get("t"), self._state
        if kind == "go" and state == "waiting":
            self._start(message)
        elif kind == "signal":
            self._pass_on(int(message["signum"]), message.get("to", "group"))
        elif kind == "kill" and state == "running":
            self._asked = True
            self._finish()
        elif kind == "kill" and state == "waiting":
            self._pump.say("killed before the program began")
            self._end(KILLED, signal.SIGKILL)
        elif kind in ("ack", "kill") and state == "exited":
            self._acked = True

    def _pass_on(self, signum: int, to: str) -> None:
        if self._state == "running":  # the child is not reaped before that ends: its number is its own
            # Torchrun would end its ranks by any signal that it knows, and die of the others.
            ranks = workers(descendants(self._child)) if self._starts_ranks and to == "child" else {}
            for pid in ranks.values():
                kill(os.kill, pid, signum)
            if not ranks:
                kill(os.kill if to == "child" else os.killpg, self._child, signum)

    def _start(self, go: Mapping[str, Any]) -> None:
        """Start the program, in a process group of its own, that dies with this process."""
        import subprocess
        import threading

        self._open(go.get("log") or os.devnull)
        call, us = prctl(), os.getpid()
        call(PR_SET_CHILD_SUBREAPER, 1)
        argv = self._argv(go)

        def prepare() -> None:
            os.setpgid(0, 0)
            call(PR_SET_PDEATHSIG, signal.SIGKILL)
            call(PR_SET_PTRACER, ANY_OF_OURS)  # where Yama is on, the agent could not read the stacks of a hang
            if os.getppid() != us:
                os._exit(KILLED)

        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        try:
            child = subprocess.Popen(
                argv,
                env=self._child_env(go),
                stdin=subprocess.DEVNULL,
                stdout=out_end,
                stderr=err_end,
                preexec_fn=prepare,  # noqa: PLW1509 - no thread has been started yet
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._pump.say(f"{argv[0]} cannot be started: {error}")
            self._note("start", f"cannot be started: {error}", well=False)
            self._end(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED, 0)
            return
        finally:
            os.close(out_end)
            os.close(err_end)
        child.returncode = 0  # it is reaped below, not by Popen
        self._child, self._state = child.pid, "running"
        self._carrier = threading.Thread(target=self._pump.run, args=(out, err), daemon=True)
        self._carrier.start()
        self._note("start", f"has started as process {self._child}", well=True)

    def _open(self, log: str) -> None:
        self._pump, self._began = Pump(log), time.monotonic()
        self._notes = Pump(log[:-4] + ".ndjson" if log.endswith(".log") else os.devnull)

    def _argv(self, go: Mapping[str, Any]) -> list[str]:
        argv = list(go.get("argv") or self._command) or [""]
        modules, setup = go.get("modules") or [], go.get("setup") or []
        if not modules and not setup:
            return argv
        return ["bash", "-c", script(modules, setup), "bash", "modules" if modules else "", *argv]

    def _child_env(self, go: Mapping[str, Any]) -> dict[str, str]:
        gone = {"FTSLURM_ROLE", "FTSLURM_KEY_FILE", *(go.get("unset") or ())}
        env = {name: value for name, value in self._environ.items() if name not in gone}
        marks = {name: self._environ[name] for name in ("FTSLURM_RUN_ID", "FTSLURM_ATTEMPT")}  # for the fence
        marks["FTSLURM_RANK"] = str(self._about["rank"])
        return {**env, **(go.get("env") or {}), **marks}

    def _has_ended(self) -> bool:
        """Whether the program has ended; what it has left to us (as subreaper) and has ended is reaped."""
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == self._child:
                return ended is not None
            os.waitpid(ended.si_pid, 0)

    def _finish(self) -> None:
        """Kill what is left of the tree, take its last words, and report."""
        end, left = time.monotonic() + KILL_S, True
        kill(os.killpg, self._child)  # before it is reaped: then its number is nobody else's
        while left and time.monotonic() < end:
            for pid in descendants(os.getpid()):
                kill(os.kill, pid)
            left = self._reap()
        self._pump.stopping = True
        if self._carrier:
            self._carrier.join(DRAIN_S)
        if left:
            self._pump.say(f"processes that cannot be killed: {descendants(os.getpid())}")
        signum = os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0
        code = 128 + signum if signum else os.WEXITSTATUS(self._status)
        how = f"signal {signum}" if signum else f"code {code}"
        why = ": its attempt is stopped" if self._asked else ""
        self._note("end", f"has ended with {how}{why}", well=code == 0 or self._asked)
        self._end(code, signum)  # after that the agent may kill this process at any time

    def _reap(self) -> bool:
        """Take the status of everything that has ended; whether children are left, after a moment."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self._child:
                    self._status = status
                if pid == 0:
                    time.sleep(0.01)
                    return True
        except ChildProcessError:
            return False

    def _end(self, code: int, signum: int) -> None:
        self._state, self._exited_at = "exited", time.monotonic()
        tail = self._pump.tail.decode(errors="replace")
        self._exit = {"t": "exit", **self._about, "code": code, "signal": int(signum), "tail": tail, "at": time.time()}
        self._link.send(self._exit)

    def _note(self, what: str, text: str, *, well: bool) -> None:
        """Write a line for people and log collectors; a disk that hangs is waited for a moment only."""
        import threading

        event: dict[str, Any] = {"action": "rank_" + what, "outcome": "success" if well else "failure"}
        if what == "end":
            event["duration"] = int((time.monotonic() - self._began) * 1e9)
        labels = {**self._about, "node": self._link.node}
        told = {"message": f"rank {self._about['rank']} {text}", "event": event}
        line = ecs_line(self._environ, labels, "info" if well else "error", told)
        writer = threading.Thread(target=self._notes.write, args=(line,), daemon=True)
        writer.start()
        writer.join(NOTE_S)

    def _verdict(self) -> int | None:
        """The code to exit with, once there is nothing more to wait for."""
        lost, waited = self._link.lost_for(), time.monotonic() - self._exited_at
        if self._state == "exited":
            done = self._acked or waited > ACK_S or min(lost, waited) > self._orphan_after_s
            return int(self._exit["code"]) if done else None
        if lost <= (self._orphan_after_s if self._link.met else self._agent_wait_s):
            return None
        if self._state == "running":
            self._note("orphaned", f"has no agent for {lost:.0f} s ({self._link.why}) and ends itself", well=False)
            self._finish()
        self._pump.say(f"no agent for {lost:.0f} s ({self._link.why}): this rank has ended itself")
        sys.stderr.write(self._pump.tail.decode(errors="replace").rpartition("ftslurm: ")[2])
        return ORPHANED


def main(argv: Sequence[str]) -> int:
    """Run as a program; see the top of this file."""
    try:
        wrapper = Wrapper(os.environ, argv[1:] if argv[:1] == ["--"] else argv)
    except (KeyError, ValueError) as error:
        sys.stderr.write(f"ftslurm rank: not started by ftslurm: {error}\n")
        return NOT_STARTED
    return wrapper.serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
