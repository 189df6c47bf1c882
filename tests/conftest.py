"""What holds for every test: reproducible property tests, and a reason for each test that this machine cannot run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=5000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that: Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
PURE = Path(__file__).parent / "core"


def _may_be_root() -> bool:
    if os.geteuid() == 0:
        return True
    sudo = shutil.which("sudo")
    return sudo is not None and subprocess.run([sudo, "-n", "true"], check=False, timeout=10).returncode == 0


# Marker -> what it needs, and the reason that a skipped test prints.
NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "lab": (
        lambda: sys.platform == "linux" and _may_be_root(),
        "the lab needs Linux and root (or sudo without password)",
    ),
    "slurm": (lambda: shutil.which("sbatch") is not None, "the commands of Slurm are not on PATH (scripts/setup)"),
    "mpi": (lambda: importlib.util.find_spec("mpi4py") is not None, "mpi4py is not installed (scripts/setup)"),
    "gpu": (lambda: Path("/dev/nvidiactl").exists(), "no NVIDIA GPU here (/dev/nvidiactl is missing)"),
}


@pytest.hookimpl(trylast=True)  # after the order was drawn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with its reason, what this machine cannot run; each need is looked at once. The lab's tests come first.

    They take minutes a file: were one of them the last, all workers but one would wait for it. What fails is tried once
    more, the pure core apart: six labs of real daemons share the cores with everything else that waits for something.
    """
    items.sort(key=lambda item: item.get_closest_marker("lab") is None)
    used = {name for name in NEEDS if any(item.get_closest_marker(name) for item in items)}
    missing = {name: reason for name, (present, reason) in NEEDS.items() if name in used and not present()}
    for item in items:
        if not item.path.is_relative_to(PURE):
            item.add_marker(pytest.mark.flaky(reruns=1))
        for name, reason in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
