"""What outlives the process that brought a lab up: its shape in state.json, and the lock of those who change it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import asdict

from ftslurm.errors import TryAgain
from ftslurm.lab.layout import LabSpec, Layout
from ftslurm.lab.process import boot_id

_LOCK_S = 90.0
_POLL_S = 0.05


def load(layout: Layout) -> LabSpec | None:
    """The recorded shape of a lab; None when there is none, or only one from before the machine's last boot."""
    try:
        state = json.loads(layout.state.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # torn: the machine lost power while it was written
        return None
    return LabSpec(**state["spec"]) if state.get("boot_id") == boot_id() else None


def is_of_this_boot(layout: Layout) -> bool:
    """False only when the record says that the machine has booted since: then recorded process ids name nothing."""
    try:
        state = json.loads(layout.state.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return True
    return bool(state.get("boot_id") == boot_id())


def save(layout: Layout, spec: LabSpec) -> None:
    """Replace the record as a whole."""
    fresh = layout.state.with_suffix(".new")
    fresh.write_text(json.dumps({"boot_id": boot_id(), "spec": asdict(spec)}, indent=2) + "\n", encoding="utf-8")
    fresh.replace(layout.state)


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[int]:
    """Let one process at a time change a lab; yields the lock's descriptor.

    A booting machine inherits the descriptor and closes it once it has registered itself. So whoever gets the lock
    after a crash finds every process that the crashed one started: flock(2) holds until the last copy is closed.

    Raises:
        TryAgain: somebody else has held it for a minute and a half.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_S
    with layout.lock.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as caught:
                if time.monotonic() > deadline:
                    raise TryAgain(f"lab {layout.name} is being brought up or taken down by somebody else") from caught
                time.sleep(_POLL_S)
        yield lock.fileno()
