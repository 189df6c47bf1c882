"""An agent's probes of its own node: in rounds, each probe in a thread of its own with a deadline of its own.

A round is asked for at the start, before a relaunch, and every `interval_s`, at the same moments of the wall clock on
all nodes, so that what ails all of them shows at once. Readings are digested by the rules of `core.health`; what is
reported are levels that change. A probe that does not answer in time is unknown, blames nobody, and is not asked again
before it has come back: of each there is one thread, however long storage or a driver hangs.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftslurm.core import xids
from ftslurm.core.conditions import MemoryKilled, NodeChecked, NodeHealth, XidSeen
from ftslurm.core.events import Event
from ftslurm.core.health import METRICS, Change, Level, Reading, Tallies, digest, rules_with
from ftslurm.paths import RunPaths, probe_file
from ftslurm.runtime import computetest, gauges
from ftslurm.runtime.clock import ClockWatch
from ftslurm.runtime.devicetest import DeviceTest, Unanswered, torch_python
from ftslurm.runtime.gpus import Gpus, bus
from ftslurm.runtime.kernellog import KernelLog
from ftslurm.runtime.sampler import Sampler, Sources
from ftslurm.runtime.spec import ProbeSpec

log = logging.getLogger(__name__)

QUICK_S = 10.0
NVML_START_S = 40.0
"""The driver initialises every GPU when nobody has kept it loaded: up to a few seconds each."""
SHARED_S = 30.0
COMPUTE_S = 120.0
SHARED_EVERY = 10
"""Shared storage is written to in every tenth round: all nodes of a large job would be a load for it."""
SCRATCH_BYTES = 64 << 10
SHARED_BYTES = 4 << 10
SAMPLED = ("gpu_utilization/", "gpu_memory_used/", "gpu_temperature/", "gpu_power/")

Ask = Callable[[], list[Reading]]


@dataclass
class Probe:
    """One question. `every`: in each how many-th round; `at_rest` false: only at the start and before a relaunch."""

    name: str
    ask: Ask
    deadline_s: float = QUICK_S
    every: int = 1
    at_rest: bool = True
    busy: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the probes work. `attempt` gives the newest attempt on the node, `steps` how far which ranks of one are."""

    node: str
    epoch: int
    paths: RunPaths
    scratch: Path | None
    attempt: Callable[[], int | None]
    steps: Callable[[], tuple[int | None, Mapping[int, int]]]


class NodeProbes:
    """The probes of one agent."""

    def __init__(self, spec: ProbeSpec, place: Place, clock: ClockWatch, report: Callable[[Event], None]) -> None:
        """`report` takes events from any thread."""
        self._spec = spec
        self._place = place
        self._report = report
        self._rules = rules_with(spec.rules)
        self._tallies: Tallies = {}
        self._bad: set[str] = set()
        self._unknown: dict[str, str] = {}
        self._values: dict[str, float | None] = {}
        self._kills: int | None = None
        self._heard: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._leaving = threading.Event()
        self._done: queue.SimpleQueue[tuple[Probe, int, list[Reading] | Unanswered]] = queue.SimpleQueue()
        self._round = 0
        self._gpus = Gpus(spec.gpus, self._on_xid, os.environ)
        self._kernel = KernelLog(self._on_kernel_xid)
        self._test = DeviceTest(os.environ)
        self._stagger = zlib.crc32(place.node.encode()) % SHARED_EVERY
        self._probes = self._all(clock)
        sources = Sources(scratch=place.scratch, gpus=self._gpu_values, steps=place.steps)
        self._sampler = Sampler(place.paths.sample_file(place.node, place.epoch), spec.sample_every_s, sources)
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def _all(self, clock: ClockWatch) -> list[Probe]:
        place = self._place
        probes = [
            Probe("load", gauges.load),
            Probe("memory pressure", gauges.pressure),
            Probe("memory cgroup", self._memory_kills),
            Probe("clock", clock.readings),
            Probe("shared storage", self._shared, SHARED_S, every=SHARED_EVERY),
        ]
        if place.scratch is not None:
            probes.append(Probe("scratch", self._scratch))
        if self._spec.compute:
            probes.append(Probe("compute test", self._compute, COMPUTE_S, at_rest=False))
        if self._spec.gpus:
            probes.append(Probe("NVML", self._nvml, NVML_START_S + 5.0))
        return probes

    def start(self) -> None:
        """Begin with the first round, unless the probes are switched off, and with the samples."""
        self._sampler.start()
        if not self._spec.interval_s:
            return
        self._thread.start()
        if self._spec.gpus:
            self._kernel.start()

    def ask(self) -> None:
        """Have a whole round now: a relaunch is near. Returns at once."""
        self._wake.set()

    def ranks_begin(self) -> None:
        """The GPUs belong to the ranks from now on: a test that still runs on them is given up. Returns at once."""
        self._test.stop()

    def ranks_gone(self) -> None:
        """Nothing of an attempt is left: the GPUs may be tested, now. Returns at once."""
        self._test.allow()
        self.ask()

    def stop(self) -> None:
        """Ask nothing more; threads that hang stay behind and end with the process."""
        self._leaving.set()
        self._wake.set()
        self._kernel.stop()
        if self._thread.is_alive():
            self._thread.join(0.5)
        self._test.stop()
        self._gpus.close()
        self._sampler.stop()

    # -------------------------------------------------------------------------------------------------- rounds

    def _run(self) -> None:
        whole = True
        while not self._leaving.is_set():
            self._ask_all(whole=whole)
            # The rest of an interval of the wall clock: all nodes read at the same moments.
            interval_s = self._spec.interval_s
            whole = self._wake.wait(interval_s - time.time() % interval_s)
            self._wake.clear()

    def _ask_all(self, *, whole: bool) -> None:
        """Ask every probe that is due; take each answer when it comes, and what is missing when its time is over."""
        self._round += 1
        unknown_before = dict(self._unknown)
        waiting = {probe.name: time.monotonic() + probe.deadline_s for probe in self._due(whole=whole)}
        while waiting and not self._leaving.is_set():
            self._take(waiting, min(waiting.values()) - time.monotonic())
            now = time.monotonic()
            for name in [name for name, deadline in waiting.items() if deadline <= now]:
                log.warning("probe %s has not answered in time", name)
                del waiting[name]
                self._unknown[name] = f"no answer within {self._patience(name):g} s"
        if not self._leaving.is_set() and (whole or self._unknown != unknown_before):
            log.info("readings: %s; unknown: %s", self._values, self._unknown)
            unknown = tuple(sorted(self._unknown.items()))
            self._report(NodeChecked(node=self._place.node, bad=tuple(sorted(self._bad)), unknown=unknown))

    def _patience(self, name: str) -> float:
        return next(probe.deadline_s for probe in self._probes if probe.name == name)

    def _due(self, *, whole: bool) -> list[Probe]:
        """Start the probes that are due, and return them."""
        due = [
            probe
            for probe in self._probes
            if not probe.busy.is_set()
            and (whole or (probe.at_rest and (probe.every == 1 or self._round % probe.every == self._stagger)))
        ]
        for probe in due:
            probe.busy.set()
            name = f"probe {probe.name}"
            threading.Thread(target=self._answer, args=(probe, self._round), name=name, daemon=True).start()
        return due

    def _answer(self, probe: Probe, number: int) -> None:
        answer: list[Reading] | Unanswered
        try:
            answer = probe.ask()
        except Unanswered as why:
            answer = why
        except (OSError, ValueError) as error:
            answer = Unanswered(f"{type(error).__name__}: {error}")
        finally:
            probe.busy.clear()
        self._done.put((probe, number, answer))

    def _take(self, waiting: dict[str, float], timeout_s: float) -> None:
        """Take one answer, also a late one of an earlier round."""
        try:
            probe, number, answer = self._done.get(timeout=max(timeout_s, 0.01))
        except queue.Empty:
            return
        if number == self._round:
            waiting.pop(probe.name, None)
        if isinstance(answer, Unanswered):
            self._unknown[probe.name] = str(answer)
            return
        self._unknown.pop(probe.name, None)
        self._values |= {_name(reading.metric, reading.device): reading.value for reading in answer}
        self._tallies, changes = digest(self._rules, self._tallies, answer)
        for change in changes:
            self._tell(change)

    def _tell(self, change: Change) -> None:
        name = _name(change.metric, change.device)
        (self._bad.discard if change.level is Level.HEALTHY else self._bad.add)(name)
        self._report(
            NodeHealth(
                node=self._place.node,
                level=change.level,
                metric=change.metric,
                device=change.device,
                value=change.value,
                unit=METRICS[change.metric].unit,
                reason=change.reason,
                action=change.action,
            )
        )

    # --------------------------------------------------------------------------------------------------- questions

    def _scratch(self) -> list[Reading]:
        folder = self._place.scratch
        if folder is None:
            return []
        file = probe_file(folder, self._place.paths.run_id, self._place.node)
        return [*gauges.space("scratch", folder), *gauges.write("scratch", file, SCRATCH_BYTES)]

    def _shared(self) -> list[Reading]:
        folder = self._place.paths.root
        file = probe_file(folder, self._place.paths.run_id, self._place.node)
        return [*gauges.space("shared", folder), *gauges.write("shared", file, SHARED_BYTES)]

    def _memory_kills(self) -> list[Reading]:
        """Count since the last reading; what was killed before the first one is not ours to tell."""
        group = gauges.job_cgroup(gauges.OWN_CGROUP.read_text(encoding="ascii"))
        total = gauges.memory_kills(group) if group else None
        if total is None or group is None:
            return []
        before, self._kills = self._kills, total
        new = max(total - before, 0) if before is not None else 0
        if new:
            attempt = self._place.attempt()
            number = -1 if attempt is None else attempt
            self._report(MemoryKilled(node=self._place.node, kills=new, cgroup=str(group), attempt=number))
        return [Reading(metric="memory_kills", value=float(new), detail=str(group))]

    def _nvml(self) -> list[Reading]:
        answer = self._gpus.read(QUICK_S if self._gpus.buses else NVML_START_S)
        self._kernel.buses = self._gpus.buses
        if answer.unknown and not answer.readings:
            raise Unanswered(answer.unknown)
        if answer.unknown:
            log.warning("NVML: %s", answer.unknown)
        return list(answer.readings)

    def _gpu_values(self) -> dict[str, float]:
        """What the GPUs said in the last round, for the samples: asking a sick driver may take long."""
        known = dict(self._values)
        return {name: value for name, value in known.items() if name.startswith(SAMPLED) and value is not None}

    def _compute(self) -> list[Reading]:
        """Test the CPU here, and GPUs under the ranks' Python, because torch is there."""
        readings = [Reading(metric="compute_wrong", value=float(computetest.wrong_on_cpu()), device="cpu")]
        python = torch_python(self._spec.python)
        if not self._spec.gpus or not python:
            return readings
        said = self._test.output((python, str(Path(computetest.__file__))), COMPUTE_S - 10.0)
        return readings + [
            Reading(metric="compute_wrong", value=float(each["wrong"]), device=str(each["device"]))
            for each in json.loads(said or "[]")
        ]

    # -------------------------------------------------------------------------------------------------------- XIDs

    def _on_kernel_xid(self, pci: str, code: int, text: str) -> None:
        self._on_xid(pci, code, text)

    def _on_xid(self, pci: str, code: int, text: str = "") -> None:
        """Report an error of a GPU once, whichever of NVML and the kernel's log has it first."""
        gpu, now = bus(pci), time.monotonic()
        with self._lock:
            repeat = xids.is_repeat(self._heard, gpu, code, now)
            self._heard[gpu, code] = now
        if not repeat:
            self._report(XidSeen(node=self._place.node, gpu=gpu, xid=code, text=text))


def _name(metric: str, device: str) -> str:
    """Return how a metric of a device is called in reports and logs."""
    return f"{metric}/{device}" if device else metric
