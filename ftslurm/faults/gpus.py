"""What can be done to a GPU of this node, by root: a report of its loss in the kernel's log, and a reset."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ftslurm.errors import Refused, ServiceUnavailable

KMSG = Path("/dev/kmsg")
SMI_S = 60.0
XID = 79


def report_xid() -> str:
    """Write what NVIDIA's driver writes when a GPU has fallen off the bus; returns the line.

    Raises:
        Refused: the kernel's log may not be written.
        ServiceUnavailable: there is no GPU.
    """
    bus, *_ = (*_smi("--query-gpu=pci.bus_id", "--format=csv,noheader", "-i", _first()).splitlines(), "")
    if not bus:
        raise ServiceUnavailable("nvidia-smi has named no GPU")
    line = f"NVRM: Xid (PCI:{bus.strip()}): {XID}, pid='<unknown>', GPU has fallen off the bus (a test of ftslurm's)"
    try:
        KMSG.write_text(f"<3>{line}\n", encoding="utf-8")
    except OSError as error:
        raise Refused(f"{KMSG} cannot be written: {error.strerror}") from error
    return line


def reset() -> str:
    """Reset the first GPU of the job; returns what nvidia-smi says.

    Raises:
        ServiceUnavailable: nvidia-smi is missing, refuses, or does not answer.
    """
    return _smi("--gpu-reset", "-i", _first())


def _first() -> str:
    """The first GPU that this step may use."""
    return (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0]


def _smi(*arguments: str) -> str:
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=SMI_S, check=False)
    except FileNotFoundError as error:
        raise ServiceUnavailable("nvidia-smi is not on this node: there is no GPU") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceUnavailable(f"nvidia-smi did not answer within {SMI_S:g} s") from error
    if done.returncode != 0:
        raise ServiceUnavailable(f"nvidia-smi {arguments[0]}: {(done.stdout + done.stderr).strip()[:500]}")
    return done.stdout.strip()
