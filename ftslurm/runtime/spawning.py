"""How long-lived processes start others without standing still themselves.

A child that is started closes the files that it has inherited, and on shared storage that hangs each close waits: FUSE
and NFS want to be told. With vfork(2), which Python prefers, the parent stands still until the child has come to its
own program, and so do all its threads, since it holds the interpreter's lock: a supervisor was silent for as long as
storage was. With fork(2) only the thread that asked for the child waits.
"""

from __future__ import annotations

import subprocess


def wait_in_one_thread_only() -> None:
    """Have `subprocess` use fork(2); the switch is the documented one ("subprocess", section on vfork)."""
    setattr(subprocess, "_USE_VFORK", False)  # noqa: B010 - typeshed calls it final
