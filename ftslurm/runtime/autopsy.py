"""What the ranks of this node are doing, written down before a stalled attempt is killed.

For each rank: the state of its process, the Python stacks of it and of what it has started (py-spy, which reads another
process's memory: process_vm_readv(2)), where its threads wait in the kernel (/proc/PID/task/TID/wchan), and what it has
printed last; and PyTorch's flight recorder, where NCCL keeps one: the ranks are asked for it by a named pipe. Each part
has a deadline and may fail; then the bundle says what is missing and why. Nothing is paused: the ranks may yet go on.

The bundle lies in the run's folder, logs/<attempt>/autopsy/<node>.json; the supervisor gets what a verdict needs.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftslurm.core.symptoms import BLOCKED, GONE, RUNNING, STOPPED
from ftslurm.paths import PRIVATE_FOLDER, LocalPaths, RunPaths, rank_log_name
from ftslurm.runtime.rank import descendants

log = logging.getLogger(__name__)

PY_SPY = "py-spy"
SPY_S, LOOKS, PAUSE_S = 4.0, 3, 0.15
FLIGHT_S = 2.0
FRAMES, PROCESSES, LOG_BYTES = 40, 12, 8192
_STATES = {"T": STOPPED, "t": STOPPED, "D": BLOCKED, "Z": GONE, "X": GONE}


def flight_environment(folder: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that switch PyTorch's flight recorder on, except for those that the user has set.

    The names are those of torch 2.13. Of the older names only that of the dump is set, too: with any other every rank
    would print that it is deprecated (measured; also with gloo). The size is the default of 2.13.
    """
    dump = str(folder / "rank_")
    wanted = {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": dump,
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": dump,
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(folder / "ask_"),
    }
    return {name: value for name, value in wanted.items() if name not in inherited}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an autopsy is taken, and where it goes."""

    node: str
    attempt: int
    paths: RunPaths
    local: LocalPaths


def take(place: Place, processes: Mapping[int, int], deadline_s: float) -> dict[str, Any]:
    """Look at these processes (by rank), store the bundle, and return the message for the supervisor."""
    spy = find_spy()
    end = time.monotonic() + deadline_s
    asked = _ask_for_flight(place)
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="autopsy")
    futures = {pool.submit(examine, place, rank, pid, spy): rank for rank, pid in processes.items()}
    done, late = wait(futures, timeout=max(end - time.monotonic() - FLIGHT_S, 1.0))
    pool.shutdown(wait=False, cancel_futures=True)
    found = sorted((future.result() for future in done if future.exception() is None), key=lambda each: each["rank"])
    notes = sorted({each["error"] for each in found if each["error"]})
    notes += [f"rank {futures[future]} on {place.node} could not be looked at in time" for future in late]
    notes += [f"rank {futures[each]}: {each.exception()}" for each in done if each.exception() is not None]
    flights = _await_flight(place, asked=asked, end=end)
    bundle = {"node": place.node, "attempt": place.attempt, "taken": time.time(), "ranks": found, "notes": notes}
    threading.Thread(target=_store, args=(place, bundle, flights), name="autopsy-store", daemon=True).start()
    return {"t": "autopsy", "attempt": place.attempt, "stacks": grouped(found), "notes": notes}


def grouped(found: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return [state, frames, ranks] for every different stack, by plain comparison."""
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for each in found:
        groups[each["state"], tuple(each["frames"])].append(each["rank"])
    return [[state, list(frames), ranks] for (state, frames), ranks in groups.items()]


def find_spy() -> str | None:
    """Return the path of py-spy: beside this Python, else on PATH."""
    beside = Path(sys.executable).with_name(PY_SPY)
    return str(beside) if beside.exists() else shutil.which(PY_SPY)


# --------------------------------------------------------------------------------------------------------- one rank


def examine(place: Place, rank: int, pid: int, spy: str | None) -> dict[str, Any]:
    """Look at one rank: its program and what it has started."""
    state = state_of(pid)
    threads, error = stacks(pid, spy)
    kernel = _threads_in_kernel(pid)
    frames = next((frames for thread, _, frames in threads if thread == pid), [])
    if not frames:
        waits = kernel.get(str(pid), "")
        frames = [f"{waits} (kernel)"] if waits else []
    children = [_child(child, spy) for child in descendants(pid)[:PROCESSES]]
    return {
        "rank": rank,
        "pid": pid,
        "state": state,
        "frames": frames[:FRAMES],
        "threads": [{"id": thread, "name": name, "frames": frames} for thread, name, frames in threads],
        "kernel": kernel,
        "stack": _word(f"/proc/{pid}/stack"),
        "children": children,
        "log": _last_lines(place.local.spool(place.attempt) / rank_log_name(rank)),
        "error": error,
    }


def _child(pid: int, spy: str | None) -> dict[str, Any]:
    threads, error = stacks(pid, spy)
    return {
        "pid": pid,
        "command": _word(f"/proc/{pid}/cmdline").replace("\0", " ")[:200],
        "state": state_of(pid),
        "threads": [{"id": thread, "name": name, "frames": frames} for thread, name, frames in threads],
        "kernel": _threads_in_kernel(pid),
        "error": error,
    }


def state_of(pid: int) -> str:
    """Return running, stopped, blocked or gone. Blocked is only what is found so at several looks in a row."""
    letter = "X"
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE_S)
        text = _word(f"/proc/{pid}/stat")
        letter = text.rpartition(")")[2].split()[0] if text else "X"
        if letter != "D":
            break
    return _STATES.get(letter, RUNNING)


def stacks(pid: int, spy: str | None) -> tuple[list[tuple[int, str, list[str]]], str]:
    """Return (thread id, name, frames from the innermost) of every Python thread, and what is missing and why."""
    if spy is None:
        return [], "no Python stacks: py-spy is not installed (pip install 'ftslurm[hang]')"
    error = ""
    for _ in range(LOOKS):  # a process that runs on while it is read gives nonsense now and then
        argv = [spy, "dump", "--pid", str(pid), "--json", "--nonblocking"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=SPY_S, check=False)
        except subprocess.TimeoutExpired:
            return [], f"no Python stacks: py-spy did not answer within {SPY_S:.0f} s"
        if done.returncode == 0:
            return [_thread(each) for each in json.loads(done.stdout)], ""
        error = _why(done.stderr)
    return [], error


def _thread(told: Mapping[str, Any]) -> tuple[int, str, list[str]]:
    frames = [
        f"{each['name']} ({each['short_filename'] or each['filename']}:{each['line']})" for each in told["frames"]
    ]
    return int(told["os_thread_id"] or 0), str(told["thread_name"] or ""), frames


def _why(text: str) -> str:
    """The reason in one line; a refusal of the kernel with what to do about it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Permission denied" in text or "Operation not permitted" in text:
        return "no Python stacks: this site does not let a user read the memory of his processes (ptrace_scope)"
    return f"no Python stacks: {lines[-1][:200]}" if lines else "no Python stacks: py-spy failed"


def _threads_in_kernel(pid: int) -> dict[str, str]:
    """Return where each thread waits in the kernel."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return {}
    waits = {thread: _word(f"/proc/{pid}/task/{thread}/wchan") for thread in threads}
    return {thread: place for thread, place in waits.items() if place.strip("0")}


def _word(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_BYTES, 0))
            return file.read().decode("utf-8", "replace").splitlines()[-40:]
    except OSError:
        return []


# -------------------------------------------------------------------------------------------------- flight recorder


def _ask_for_flight(place: Place) -> bool:
    """Ask the ranks that listen for what NCCL has recorded (TORCH_NCCL_DEBUG_INFO_PIPE_FILE)."""
    asked = False
    for pipe in place.local.flight(place.attempt).glob("*.pipe"):
        with suppress(OSError):  # nobody listens any more
            fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            try:
                asked = os.write(fd, b"1\n") > 0
            finally:
                os.close(fd)
    return asked


def _await_flight(place: Place, *, asked: bool, end: float) -> list[Path]:
    """Return the recordings, once they do not grow any more or the time is over."""
    folder = place.local.flight(place.attempt)
    sizes: dict[Path, int] = {}
    while folder.is_dir():
        before = sizes
        sizes = {path: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        if not asked or time.monotonic() >= end or (sizes and sizes == before):
            break
        time.sleep(PAUSE_S)
    return sorted(sizes)


def keep_flight(place: Place) -> None:
    """Store what NCCL has recorded by itself, when one of its time-outs ran out."""
    flights = _await_flight(place, asked=False, end=0.0)
    if flights:
        threading.Thread(target=_copy, args=(place, flights), name="autopsy-flight", daemon=True).start()


def _copy(place: Place, flights: Sequence[Path]) -> None:
    folder = place.paths.autopsy(place.attempt, place.node).parent
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        for flight in flights:
            shutil.copy(flight, folder / f"{place.node}-flight-{flight.name}")
    except OSError as error:
        log.warning("the flight recordings of attempt %d cannot be stored: %s", place.attempt, error)


def _store(place: Place, bundle: Mapping[str, Any], flights: Sequence[Path]) -> None:
    """Write the bundle. Shared storage may hang: then this thread does, and nothing else."""
    path = place.paths.autopsy(place.attempt, place.node)
    try:
        path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(json.dumps(bundle, indent=1))
        part.chmod(0o600)
        part.replace(path)
    except OSError as error:
        log.warning("the autopsy of attempt %d cannot be stored: %s", place.attempt, error)
    _copy(place, flights)
