"""An agent's probes: rounds, deadlines, and what they make of their own answers."""

from __future__ import annotations

import queue
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ftslurm.core.conditions import MemoryKilled, NodeChecked, NodeHealth, XidSeen
from ftslurm.core.health import Consequence, Level, Reading, Rule
from ftslurm.paths import RunPaths
from ftslurm.runtime import gauges, nodeprobes
from ftslurm.runtime.clock import ClockWatch
from ftslurm.runtime.devicetest import DeviceTest, torch_python
from ftslurm.runtime.nodeprobes import NodeProbes, Place, Probe
from ftslurm.runtime.spec import ProbeSpec

PATIENCE_S = 30.0


@pytest.fixture
def place(tmp_path):
    """Scratch and shared storage of a node."""
    for name in ("scratch", "shared"):
        (tmp_path / name).mkdir()
    return Place(
        node="n1", epoch=1, paths=RunPaths(tmp_path / "shared"), scratch=tmp_path / "scratch",
        attempt=lambda: 3, steps=lambda: (3, {0: 17}),
    )  # fmt: skip


@pytest.fixture
def started(place):
    """Starts probes and gives them with the queue of their reports; each is stopped at the end."""
    running = []

    def start(spec, **replaced):
        reports = queue.SimpleQueue()
        probes = NodeProbes(spec, place, ClockWatch(), reports.put)
        for probe in probes._probes:
            if probe.name.replace(" ", "_") in replaced:
                probe.ask = replaced.pop(probe.name.replace(" ", "_"))
        probes._probes += [Probe(name, ask, deadline_s=0.2) for name, ask in replaced.items()]
        running.append(probes)
        probes.start()
        return probes, reports

    yield start
    for probes in running:
        probes.stop()


def until(reports, kind):
    """Return the next report of a kind."""
    while True:
        event = reports.get(timeout=PATIENCE_S)
        if isinstance(event, kind):
            return event


def test_a_healthy_node_says_that_it_was_checked(started, place):
    """The first round is reported, with nothing bad and nothing unknown; no file is left behind."""
    _, reports = started(ProbeSpec(interval_s=600))
    assert until(reports, NodeChecked) == NodeChecked(node="n1")
    assert not list(place.scratch.iterdir())
    assert not list(place.paths.root.iterdir())


def test_a_rule_that_holds_is_reported_at_once(started):
    """Before the round is over: whoever hangs holds nobody else up."""
    rule = Rule(
        metric="scratch_free", limit=101, above=False, readings=1, severity=Level.CRITICAL, action=Consequence.AVOID
    )
    hangs = threading.Event()
    _, reports = started(ProbeSpec(interval_s=600, rules=(rule,)), shared_storage=lambda: [hangs.wait(PATIENCE_S)][1:])
    event = until(reports, NodeHealth)
    assert (event.metric, event.level, event.action, event.unit) == (
        "scratch_free",
        Level.CRITICAL,
        Consequence.AVOID,
        "%",
    )
    assert event.reason.endswith("below 101%")
    hangs.set()


def test_a_probe_that_hangs_is_unknown_and_is_not_asked_again(started):
    """One thread, however many rounds; nobody is blamed; when it comes back that is told, too."""
    comes_back, asked = threading.Event(), []

    def hang():
        asked.append(1)
        comes_back.wait(PATIENCE_S)
        return []

    probes, reports = started(ProbeSpec(interval_s=600), sick=hang)
    assert until(reports, NodeChecked).unknown == (("sick", "no answer within 0.2 s"),)
    probes.ask()
    assert until(reports, NodeChecked).unknown == (("sick", "no answer within 0.2 s"),)
    assert len(asked) == 1
    comes_back.set()
    probes.ask()
    while until(reports, NodeChecked).unknown:
        probes.ask()


def test_an_error_is_unknown_with_its_words(started):
    """A probe that fails itself blames nobody."""

    def fail():
        raise PermissionError(13, "Permission denied")

    _, reports = started(ProbeSpec(interval_s=600), sick=fail)
    assert until(reports, NodeChecked).unknown == (("sick", "PermissionError: [Errno 13] Permission denied"),)


def test_what_became_bad_is_told_to_whoever_comes_new(started):
    """A whole round names what is bad now: a supervisor may know more than is true, from an agent before this one."""
    probes, reports = started(
        ProbeSpec(interval_s=600), sick=lambda: [Reading(metric="gpu_lost", value=1.0, device="gpu1")]
    )
    assert until(reports, NodeChecked).bad == ("gpu_lost/gpu1",)
    probes.ask()
    assert until(reports, NodeChecked).bad == ("gpu_lost/gpu1",)


def test_memory_kills_are_counted_from_the_start(started, tmp_path, monkeypatch):
    """What the kernel killed before is not told; what it kills later is, with the attempt."""
    group = tmp_path / "cgroup" / "job_7"
    group.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/job_7/step_0/task_0\n")
    (group / "memory.events").write_text("low 0\noom 2\noom_kill 2\n")
    monkeypatch.setattr(gauges, "OWN_CGROUP", own)
    monkeypatch.setattr(gauges.job_cgroup, "__defaults__", (tmp_path / "cgroup",))
    probes, reports = started(ProbeSpec(interval_s=600))
    assert isinstance(until(reports, (NodeChecked, MemoryKilled)), NodeChecked)
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 5\n")
    probes.ask()
    assert until(reports, MemoryKilled) == MemoryKilled(node="n1", kills=3, cgroup=str(group), attempt=3)


def test_xids_of_both_sources_are_one(started):
    """NVML and the kernel's log write the bus id in different ways."""
    probes, reports = started(ProbeSpec(interval_s=600))
    until(reports, NodeChecked)
    probes._on_xid("00000000:3B:00.0", 79)
    probes._on_kernel_xid("0000:3b:00", 79, "GPU has fallen off the bus.")
    probes._on_kernel_xid("0000:3b:00", 45, "")
    assert [until(reports, XidSeen).xid for _ in range(2)] == [79, 45]


def test_probes_that_are_off_ask_nothing(place):
    """Interval 0."""
    probes = NodeProbes(ProbeSpec(interval_s=0.0), place, ClockWatch(), pytest.fail)
    probes.start()
    probes.ask()
    probes.stop()


def test_a_wrong_product_is_found(started, tmp_path, monkeypatch):
    """The ranks' Python says that a GPU computes wrongly: its node has failed."""
    said = '[{"device": "gpu0", "wrong": 0}, {"device": "gpu1", "wrong": 3}]'
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{said}'\n")
    python.chmod(0o755)
    monkeypatch.setattr(
        nodeprobes.Gpus, "read", lambda *_: nodeprobes.Gpus._answer(None, {"readings": [], "error": ""})
    )
    _, reports = started(ProbeSpec(interval_s=600, gpus=2, python=str(python)))
    event = until(reports, NodeHealth)
    assert (event.metric, event.device, event.value, event.action) == (
        "compute_wrong",
        "gpu1",
        3.0,
        Consequence.EXCLUDE,
    )


def test_a_compute_test_that_fails_is_unknown(started, tmp_path):
    """A program that ends badly says nothing about the node."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'RuntimeError: busy' >&2\nexit 1\n")
    python.chmod(0o755)
    _, reports = started(ProbeSpec(interval_s=600, gpus=1, python=str(python)), NVML=list)
    assert until(reports, NodeChecked).unknown == (("compute test", f"{python} ended with code 1: RuntimeError: busy"),)


def test_the_ranks_python_is_found(tmp_path, monkeypatch):
    """By its name, or beside a launcher such as torchrun; a program that is neither has none."""
    for name in ("torchrun", "python"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert torch_python(sys.executable) == sys.executable
    assert torch_python(str(tmp_path / "torchrun")) == str(tmp_path / "python")
    assert torch_python("/bin/true") == ""
    assert torch_python("no-such-program-here") == ""
    assert torch_python("") == ""


def test_a_late_answer_is_taken_in_the_next_round(started):
    """What a slow probe finds counts, however late."""
    slow, answered = threading.Event(), threading.Event()

    def ask():
        if answered.is_set():
            return []
        slow.wait(PATIENCE_S)
        answered.set()
        return [Reading(metric="gpu_lost", value=1.0, device="gpu0")]

    probes, reports = started(ProbeSpec(interval_s=600), sick=ask)
    assert until(reports, NodeChecked).unknown
    slow.set()
    deadline = time.monotonic() + PATIENCE_S
    found = []
    while not found:
        assert time.monotonic() < deadline
        probes.ask()  # a round may begin, and end, before the answer is there
        with suppress(queue.Empty):
            found += [each for each in [reports.get(timeout=0.2)] if isinstance(each, NodeHealth)]
    assert found[0].metric == "gpu_lost"


def test_place_without_scratch_has_no_scratch_probe(tmp_path):
    """Nothing is written where nothing was asked for."""
    paths = RunPaths(Path(tmp_path))
    place = Place(node="n1", epoch=1, paths=paths, scratch=None, attempt=lambda: None, steps=lambda: (None, {}))
    probes = NodeProbes(ProbeSpec(), place, ClockWatch(), pytest.fail)
    assert "scratch" not in [probe.name for probe in probes._probes]


def test_the_test_makes_room_for_the_ranks(tmp_path):
    """It is killed when ranks begin, without a word, and is not started while they run."""
    test, said = DeviceTest({}), queue.SimpleQueue()
    began = tmp_path / "began"
    argv = ("/bin/sh", "-c", f"echo x > {began}; exec /bin/sleep 600")
    threading.Thread(target=lambda: said.put(test.output(argv, 500.0)), daemon=True).start()
    while not began.exists():
        assert said.empty()
    test.stop()
    assert said.get(timeout=PATIENCE_S) == ""
    assert test.output(("/bin/false",), 5.0) == ""
    test.allow()
    assert test.output(("/bin/echo", "[]"), 30.0) == "[]\n"
