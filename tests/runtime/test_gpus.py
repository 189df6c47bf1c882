"""NVML asked in a child process: a real one, with a library that plays illnesses (tests/data/nvml)."""

from __future__ import annotations

import os
import queue
import time
from pathlib import Path

import pytest

from ftslurm.core.health import DEFAULT_RULES, Consequence, Level, digest
from ftslurm.runtime import computetest
from ftslurm.runtime.gpus import Gpus, bus
from ftslurm.runtime.kernellog import KernelLog
from ftslurm.runtime.nvml import Gpu, own
from tests.runtime.nvml import build

DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """A library that plays what it is told."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def gpus(fake):
    """Two GPUs, and what XIDs were reported."""
    fake.play("healthy")
    heard = queue.SimpleQueue()
    asked = Gpus(2, lambda pci, code: heard.put((bus(pci), code)), fake.environ(2))
    asked.heard = heard
    yield asked
    asked.close()


def changes(answer):
    """Return what the built-in rules make of an answer: (metric, device, level, action)."""
    _, found = digest(DEFAULT_RULES, {}, answer.readings)
    return [(each.metric, each.device, each.level, each.action) for each in found]


def test_healthy_gpus_say_so(gpus):
    """Every metric that this library supports, in its unit, and no complaint; what it does not support is left out."""
    answer = gpus.read(DEADLINE_S)
    assert (answer.unknown, changes(answer)) == ("", [])
    values = {(each.metric, each.device): each.value for each in answer.readings}
    assert values["gpu_missing", ""] == 0
    assert values["gpu_temperature", "gpu1"] == 45
    assert values["gpu_thermal_margin", "gpu1"] == 45
    assert values["gpu_memory_used", "gpu0"] == 25.0
    assert not any(metric.startswith("gpu_remap") for metric, _ in values)
    assert gpus.buses == {"0000:10:00", "0000:11:00"}


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("lost", [("gpu_lost", "gpu1", Level.FAILED, Consequence.EXCLUDE)]),
        ("ecc_uncorrectable", [("gpu_ecc_uncorrected", "gpu1", Level.CRITICAL, Consequence.AVOID)]),
    ],
)
def test_illness_in_training_is_found(gpus, fake, word, wanted):
    """The process that asks lives on; the next answer has it."""
    assert changes(gpus.read(DEADLINE_S)) == []
    fake.play(word)
    assert changes(gpus.read(DEADLINE_S)) == wanted


def test_missing_gpu_is_counted_against_what_slurm_gave(gpus, fake):
    """One of two is there, at the start and later."""
    wanted = [("gpu_missing", "", Level.FAILED, Consequence.EXCLUDE)]
    assert changes(gpus.read(DEADLINE_S)) == []
    fake.play("missing")
    assert changes(gpus.read(DEADLINE_S)) == wanted
    gpus.close()
    assert changes(gpus.read(DEADLINE_S)) == wanted


def test_xid_comes_by_itself(gpus, fake):
    """No question is needed for it."""
    gpus.read(DEADLINE_S)
    fake.play("xid")
    assert gpus.heard.get(timeout=DEADLINE_S) == ("0000:11:00", 79)


def test_a_call_that_hangs_is_unknown_and_leaves_no_process(gpus, fake):
    """The deadline holds, the child is killed and reaped, and the next question is answered again."""
    gpus.read(DEADLINE_S)
    child = gpus._child.pid
    fake.play("hang")
    before = time.monotonic()
    answer = gpus.read(1.0)
    assert (answer.readings, answer.unknown) == ((), "NVML has not answered within 1 s")
    assert time.monotonic() - before < DEADLINE_S
    assert not Path(f"/proc/{child}").exists()
    fake.play("healthy")
    assert gpus.read(DEADLINE_S).unknown == ""


def test_child_ends_with_its_agent_even_when_it_hangs(gpus, fake):
    """An agent that is gone has closed the pipe: that ends the child, also out of a call that never returns."""
    fake.play("hang")
    gpus._start()
    child = gpus._child
    os.write(child.stdin.fileno(), b"read\n")
    child.stdin.close()
    assert child.wait(DEADLINE_S) == 0


def test_child_that_dies_is_unknown_once(gpus):
    """A driver that crashes its caller blames nobody; the next question starts another child."""
    gpus.read(DEADLINE_S)
    gpus._child.kill()
    assert gpus.read(DEADLINE_S).unknown in ("", "the process that asks NVML has ended in the middle of it")
    assert gpus.read(DEADLINE_S).unknown == ""


def test_no_library_is_unknown_and_asked_once(fake, tmp_path):
    """A node without NVIDIA's library: the reason is said, and no process is started again and again."""
    asked = Gpus(2, lambda *_: None, {**fake.environ(2), "LD_LIBRARY_PATH": str(tmp_path)})
    answer = asked.read(DEADLINE_S)
    assert answer.unknown.startswith("NVML: ")
    assert asked._child is None
    assert asked.read(DEADLINE_S) == answer
    assert asked._child is None


def test_only_the_jobs_own_gpus_are_judged():
    """Where NVML shows more GPUs than the job has, Slurm's indices choose; names that are no indices choose nothing."""
    cards = [Gpu(index, "", None) for index in range(4)]
    assert [gpu.index for gpu in own(cards, 2, "1,3")] == [1, 3]
    assert own(cards, 4, "1,3") == cards
    assert own(cards, 0, "1,3") == cards
    assert own(cards, 2, "GPU-5fe,GPU-77a") == cards
    assert own(cards, 2, "") == cards


def test_kernel_log_is_read_for_own_gpus():
    """The driver's words in the kernel's log, in the forms of several drivers; others' GPUs are others' business."""
    heard = []
    log = KernelLog(lambda *words: heard.append(words))
    log.buses = frozenset({"0000:3b:00"})
    log.take("6,1234,5,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=python, GPU has fallen off the bus.\n")
    log.take("NVRM: Xid (PCI:0000:3B:00.0): 45, Ch 00000008")
    log.take("NVRM: Xid (PCI:0000:86:00): 31, pid=1")
    log.take("usb 1-1: new device")
    assert [(bus(pci), code) for pci, code, _ in heard] == [("0000:3b:00", 79), ("0000:3b:00", 45)]
    assert heard[0][2] == "pid=1, name=python, GPU has fallen off the bus."


def test_kernel_log_is_followed_from_now_on(tmp_path):
    """What stood there before is not reported again; a log that may not be read is no error."""
    heard = queue.SimpleQueue()
    KernelLog(lambda *words: heard.put(words), tmp_path / "nothing").start()
    path = tmp_path / "kmsg"
    path.write_text("NVRM: Xid (PCI:0000:3b:00): 31, old\n")
    log = KernelLog(lambda *words: heard.put(words), path)
    log.buses = frozenset({"0000:3b:00"})
    log.start()
    with path.open("a") as file:
        file.write("NVRM: Xid (PCI:0000:3b:00): 79, new\n")
    assert heard.get(timeout=DEADLINE_S) == ("0000:3b:00", 79, "new")
    log.stop()


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/proc/driver/nvidia").exists(), reason="no NVIDIA driver on this machine")
def test_real_gpus_answer():
    """The library of a real driver: the readings of every GPU, none missing, none lost, the compute test right."""
    asked = Gpus(1, lambda *_: None, os.environ)
    answer = asked.read(DEADLINE_S)
    asked.close()
    assert answer.unknown == ""
    values = {each.metric: each.value for each in answer.readings}
    assert (values["gpu_missing"], values["gpu_lost"]) == (0, 0)
    assert 0 < values["gpu_temperature"] < 110
    assert all(each["wrong"] == 0 for each in computetest.wrong_on_gpus())
