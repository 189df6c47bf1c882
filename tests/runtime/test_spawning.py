"""Starting a child while storage hangs: one thread waits, the process does not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.local_ranks import ROOT

PROGRAM = """
import subprocess, sys, threading, time
from ftslurm.runtime.spawning import wait_in_one_thread_only
if sys.argv[2] == "fork":
    wait_in_one_thread_only()
file = open(sys.argv[1], "w")  # inherited by the child, which has to close it
print("ready", flush=True)
sys.stdin.readline()
threading.Thread(target=lambda: subprocess.run(["true"], check=True, timeout=60), daemon=True).start()
longest, until = 0.0, time.monotonic() + 2
while time.monotonic() < until:
    before = time.monotonic()
    time.sleep(0.02)
    longest = max(longest, time.monotonic() - before)
print(longest, flush=True)
"""


def longest_pause(file: Path, storage: subprocess.Popen[bytes], how: str) -> float:
    """Seconds that a thread stood still while another one started a child, with the storage of `file` frozen."""
    argv = [sys.executable, "-c", PROGRAM, str(file), how]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        assert program.stdout.readline() == "ready\n"
        storage.send_signal(signal.SIGSTOP)
        waker = threading.Timer(4.0, lambda: storage.send_signal(signal.SIGCONT))
        waker.start()
        program.stdin.write("\n")
        program.stdin.flush()
        longest_s = float(program.stdout.readline())
        waker.join()
        program.wait(30)
    return longest_s


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system that hangs needs root")
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fuse3 is not installed")
def test_a_child_that_cannot_close_its_files_stops_nobody(tmp_path: Path) -> None:
    """The other threads go on while the storage of an inherited file is frozen; with vfork they would all stand still."""
    backing, mount, control = tmp_path / "backing", tmp_path / "mount", tmp_path / "control"
    for folder in (backing, mount):
        folder.mkdir()
    control.write_text("none")
    storage = subprocess.Popen([sys.executable, "-m", "ftslurm.lab.passthrough", backing, mount, control], cwd=ROOT)
    try:
        deadline = time.monotonic() + 20
        while not mount.is_mount() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert mount.is_mount()
        assert longest_pause(mount / "file", storage, "fork") < 3
    finally:
        storage.send_signal(signal.SIGCONT)
        subprocess.run(["fusermount3", "-u", str(mount)], check=False, timeout=20)
        storage.terminate()
        storage.wait(20)
