"""What is done to a GPU, with a fake NVML and a fake nvidia-smi that asks it: what is done is what a run hears."""

from __future__ import annotations

import sys

import pytest

from ftslurm.core.health import DEFAULT_RULES, Consequence, Level, digest
from ftslurm.errors import Refused, ServiceUnavailable
from ftslurm.faults import gpus
from ftslurm.runtime.gpus import Gpus, bus
from ftslurm.runtime.kernellog import KernelLog
from tests.runtime.nvml import build

DEADLINE_S = 30.0
SMI = """#!{python}
import os, pathlib, sys
import pynvml
pynvml.nvmlInit()
gpu = pynvml.nvmlDeviceGetHandleByIndex(int(sys.argv[sys.argv.index("-i") + 1]))
if "--gpu-reset" in sys.argv:
    pathlib.Path(os.environ["FAKE_NVML_FILE"]).write_text("lost")
    print("GPU was successfully reset.")
else:
    assert sys.argv[1:3] == ["--query-gpu=pci.bus_id", "--format=csv,noheader"]
    bus = pynvml.nvmlDeviceGetPciInfo(gpu).busId
    print(bus if isinstance(bus, str) else bus.decode())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library that plays what it is told."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def node(library, tmp_path, monkeypatch):
    """A node with two GPUs, an nvidia-smi and a kernel's log of its own."""
    library.play("healthy")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(SMI.format(python=sys.executable))
    smi.chmod(0o755)
    for name, value in library.environ(2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus, "KMSG", tmp_path / "kmsg")
    return tmp_path


@pytest.fixture
def asked(library, node):
    """What a run's agent asks."""
    agents = Gpus(2, lambda pci, code: None, library.environ(2))
    yield agents
    agents.close()


def test_a_reported_xid_is_heard_by_a_run_that_has_this_gpu(node, asked):
    """The line has the form of the driver's, and the bus id is that of the job's own first GPU."""
    asked.read(DEADLINE_S)
    heard = []
    follower = KernelLog(lambda pci, code, words: heard.append((bus(pci), code, words)))
    follower.buses = asked.buses
    line = gpus.report_xid()
    follower.take((node / "kmsg").read_text())
    assert heard == [("0000:11:00", 79, line.partition("79, ")[2])]
    assert "fallen off the bus" in line
    follower.buses = frozenset({"0000:99:00"})
    follower.take((node / "kmsg").read_text())
    assert len(heard) == 1


def test_a_gpu_that_is_reset_is_lost_to_who_uses_it(node, asked):
    """NVML says so at the next question, and the node is given up."""
    assert digest(DEFAULT_RULES, {}, asked.read(DEADLINE_S).readings)[1] == ()
    assert "successfully reset" in gpus.reset()
    (found,) = digest(DEFAULT_RULES, {}, asked.read(DEADLINE_S).readings)[1]
    assert (found.metric, found.device, found.level, found.action) == (
        "gpu_lost", "gpu1", Level.FAILED, Consequence.EXCLUDE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "not on this node"),
        ("echo No devices were found; exit 6", "No devices were found"),
        ("exit 0", "has named no GPU"),
    ],
)
def test_without_a_gpu_that_is_said(node, script, words):
    """And nothing is written into the kernel's log."""
    (node / "nvidia-smi").unlink()
    if script is not None:
        (node / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (node / "nvidia-smi").chmod(0o755)
    with pytest.raises(ServiceUnavailable, match=words):
        gpus.report_xid()
    assert not (node / "kmsg").exists()


def test_a_kernels_log_that_may_not_be_written(node):
    """As of an ordinary user: refused."""
    (node / "kmsg").mkdir()
    with pytest.raises(Refused, match="kmsg cannot be written"):
        gpus.report_xid()
