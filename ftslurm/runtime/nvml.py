"""Asks NVIDIA's management library about the GPUs of a node: a program of its own, since a sick driver may hang it.

It speaks lines of JSON. On standard input a line asks for a reading; on standard output comes first what GPUs there are
(or why there is nobody to ask), then an answer to each question, and XIDs in the moment in which they occur. It ends
when its input ends, also from the middle of a call that never returns. `runtime.gpus` is its other side.

The package is nvidia-ml-py, the module pynvml. What a driver or a GPU does not support is left out.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

WAIT_MS = 1000
QUIET = ("NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVMLError_NoPermission", "NVMLError_NoData")

Value = dict[str, Any]


@dataclass
class Gpu:
    """One GPU: its index, its PCI bus id, NVML's handle. A GPU that was lost before the start has no handle."""

    index: int
    pci: str
    handle: Any
    lost: bool = False

    @property
    def name(self) -> str:
        """How it is called in readings."""
        return f"gpu{self.index}"


class Asker:
    """All GPUs of the node that this process may see."""

    def __init__(self, pynvml: Any, expected: int, say: Callable[[Value], None]) -> None:  # noqa: ANN401 - the module
        """`expected` is how many GPUs Slurm gave to the job (0: nobody knows)."""
        self._nvml = pynvml
        self._expected = expected
        self._say = say
        self._lost = pynvml.NVMLError_GpuIsLost
        found = [self._gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
        self.gpus = own(found, expected, os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    def _gpu(self, index: int) -> Gpu:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            return Gpu(index, self._nvml.nvmlDeviceGetPciInfo(handle).busId, handle)
        except self._lost:
            return Gpu(index, "", None, lost=True)

    # ---------------------------------------------------------------------------------------------------- readings

    def read(self) -> Value:
        """Return all readings, and what went wrong in asking."""
        readings, errors = [], []
        if self._expected:
            there = min(len(self.gpus), self._nvml.nvmlDeviceGetCount())
            missing = max(self._expected - there, 0)
            detail = f"{there} of {self._expected} are there"
            readings.append({"metric": "gpu_missing", "value": missing, "detail": detail})
        for gpu in self.gpus:
            try:
                mine = [] if gpu.lost else list(self._of(gpu))
            except self._lost:
                gpu.lost, mine = True, []
            except self._nvml.NVMLError as error:
                errors.append(f"{gpu.name}: {error}")
                continue
            readings.append({"metric": "gpu_lost", "value": int(gpu.lost), "device": gpu.name, "detail": gpu.pci})
            readings += [{"device": gpu.name, **each} for each in mine]
        return {"readings": readings, "error": "; ".join(errors)}

    def _of(self, gpu: Gpu) -> Iterator[Value]:
        nvml, handle = self._nvml, gpu.handle
        celsius = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        if celsius is not None:
            yield {"metric": "gpu_temperature", "value": celsius}
            limit = self._ask(nvml.nvmlDeviceGetTemperatureThreshold, handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
            if limit:
                yield {"metric": "gpu_thermal_margin", "value": limit - celsius, "detail": f"it has {celsius} C"}
        kinds = (("gpu_ecc_uncorrected", nvml.NVML_VOLATILE_ECC), ("gpu_ecc_lifetime", nvml.NVML_AGGREGATE_ECC))
        for metric, counter in kinds:
            kind = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
            errors = self._ask(nvml.nvmlDeviceGetTotalEccErrors, handle, kind, counter)
            if errors is not None:
                yield {"metric": metric, "value": errors}
        rows = self._ask(nvml.nvmlDeviceGetRemappedRows, handle)
        if rows is not None:
            yield {"metric": "gpu_remap_pending", "value": int(bool(rows[2]))}
            yield {"metric": "gpu_remap_failed", "value": int(bool(rows[3]))}
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is not None and memory.total:
            yield {"metric": "gpu_memory_used", "value": round(100 * memory.used / memory.total, 1)}
        busy = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        if busy is not None:
            yield {"metric": "gpu_utilization", "value": busy.gpu}
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        if milliwatts is not None:
            yield {"metric": "gpu_power", "value": round(milliwatts / 1000, 1)}

    def _ask(self, call: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - whatever NVML says
        """Return the answer, or None where this is not supported. Raises NVMLError on any other trouble."""
        try:
            return call(*arguments)
        except self._nvml.NVMLError as error:
            if type(error).__name__ in QUIET:
                return None
            raise

    # -------------------------------------------------------------------------------------------------------- XIDs

    def watch(self) -> None:
        """Say every XID in the moment in which it occurs; for ever, or until NVML cannot."""
        nvml = self._nvml
        events = nvml.nvmlEventSetCreate()
        watched = [gpu for gpu in self.gpus if not gpu.lost and self._registers(gpu, events)]
        if not watched:
            self._say({"no_xids": "the driver does not report XIDs"})
            return
        by_handle = {_address(gpu.handle): gpu for gpu in watched}
        while True:
            try:
                event = nvml.nvmlEventSetWait_v2(events, WAIT_MS)
            except nvml.NVMLError_Timeout:
                continue
            gpu = by_handle.get(_address(event.device))
            self._say({"xid": int(event.eventData), "pci": gpu.pci if gpu else ""})

    def _registers(self, gpu: Gpu, events: Any) -> bool:  # noqa: ANN401 - NVML's own
        nvml = self._nvml
        try:
            nvml.nvmlDeviceRegisterEvents(gpu.handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError as error:
            self._say({"no_xids": f"{gpu.name}: {error}"})
            return False
        return True


def own(gpus: list[Gpu], expected: int, visible: str) -> list[Gpu]:
    """Return the GPUs of this job, where NVML shows more than it has and Slurm says by their indices which they are.

    Where the site confines jobs to their devices, NVML shows no others, and the indices count only its own.
    """
    words = visible.split(",")
    if not 0 < expected < len(gpus) or not all(word.strip().isdecimal() for word in words):
        return gpus
    indices = {int(word) for word in words}
    return [gpu for gpu in gpus if gpu.index in indices]


def _address(handle: Any) -> int | None:  # noqa: ANN401 - a pointer of ctypes
    import ctypes

    return ctypes.cast(handle, ctypes.c_void_p).value


def main() -> None:
    """Answer questions until the input ends."""
    lock = threading.Lock()

    def say(value: Value) -> None:
        with lock:
            sys.stdout.write(json.dumps(value) + "\n")
            sys.stdout.flush()

    questions = threading.Semaphore(0)
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()
    try:
        import pynvml
    except ImportError:
        say({"absent": "the Python package nvidia-ml-py is not installed (pip install 'ftslurm[gpu]')"})
        return
    try:
        pynvml.nvmlInit()
        asker = Asker(pynvml, int(sys.argv[1]), say)
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded) as error:
        say({"absent": f"NVML: {error}"})
        return
    say({"gpus": {gpu.pci: gpu.name for gpu in asker.gpus if gpu.pci}})
    threading.Thread(target=_watch, args=(asker, say), daemon=True).start()
    while True:
        questions.acquire()
        say(asker.read())


def _watch(asker: Asker, say: Callable[[Value], None]) -> None:
    import pynvml

    try:
        asker.watch()
    except pynvml.NVMLError as error:
        say({"no_xids": str(error)})


def _listen(questions: threading.Semaphore) -> None:
    """Count questions; the end of the input is the end of this process, whatever its other threads hang in."""
    for _ in sys.stdin:
        questions.release()
    os._exit(0)


if __name__ == "__main__":
    main()
