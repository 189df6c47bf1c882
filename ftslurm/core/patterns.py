"""What a line of a log says about a failure: its cause, how much it weighs, and its role in the story.

Roles. INITIATING: the line speaks of what began it. CASCADE: of what became of somebody who depended on another; a
lost peer explains a collective's error, never the other way round. ECHO: one process tells how another ended, which is
known better from that one's own report, or gives advice ("CUDA errors might be reported asynchronously"): no evidence.

The table is ordered: the first pattern that fits a line is the line's. So exceptions to a rule stand before the rule,
and echoes before all. Weights follow the scale of `core.facts`: 0.95 for words that only the cause itself brings about,
0.7 for the usual cause among several, 0.55 for a hint. The words are those of PyTorch 2, NCCL 2, CUDA 12, Slurm 21.08
to 25.11, Open MPI 5, MPICH 4, glibc and the Linux kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from ftslurm.core.diagnosis import Cause


class Role(StrEnum):
    """What part something plays in a failure."""

    INITIATING = "initiating"
    CASCADE = "cascade"
    ECHO = "echo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a text says: the line that says it, and what that means."""

    cause: Cause
    role: Role
    weight: float
    line: str


_ECHOES = (
    r"CUDA kernel errors might be asynchronously reported|CUDA errors? might be reported asynchronously",
    r"For debugging consider passing|Compile with `?TORCH_USE_CUDA_DSA|Device-side assertions were explicitly omitted",
    r"run with NCCL_DEBUG|To avoid data inconsistency, we are taking the entire process down",
    r"ChildFailedError|elastic_launch|Root Cause \(first observed failure\)|Sending process \d+ closing signal",
    r"To enable traceback see|error_file: <N/A>|exitcode\s+: -?\d+|traceback : (Signal|To enable)",
    r"noticed that process rank \d+|BAD TERMINATION OF ONE",
    r"Primary job +terminated normally|KILLED BY SIGNAL|EXIT CODE: ",
    r"MPI_ABORT was invoked on rank|exited on signal \d+|PRTE has lost|mpirun detected that one or more",
    r"srun: error: \S+: tasks? [\d,-]+: (?!Out Of Memory)",
    r"srun: (Job step aborted|Terminating|launch/slurm: _?step_)|srun: Force Terminated",
    r"srun: First task exited|STEP \S+ ON \S+ CANCELLED AT \S+ \*\*\*",
    r"leaked (semaphore|shared_memory) objects|resource_tracker: There appear to be",
)
_INITIATING: tuple[tuple[Cause, float, str], ...] = (
    # Who ended the job, in Slurm's words.
    (Cause.TIME_LIMIT, 0.97, r"CANCELLED AT .*DUE TO TIME LIMIT|DUE TO TIME ?LIMIT|Exceeded job time limit"),
    (Cause.PREEMPTION, 0.97, r"DUE TO PREEMPTION|job .* preempted"),
    (Cause.NODE_DOWN, 0.9, r"DUE TO NODE FAILURE|srun: error: Node failure on|NodeFail"),
    (Cause.CANCEL, 0.85, r"JOB \d+ ON \S+ CANCELLED AT \S+ \*\*\*"),
    # Host memory.
    (Cause.OOM_HOST, 0.9, r"srun: error: \S+: tasks? [\d,-]+: Out Of Memory"),
    (Cause.OOM_HOST, 0.95, r"Detected \d+ oom[-_]kill event|cgroup out-of-memory handler|oom-kill:constraint"),
    (Cause.OOM_HOST, 0.95, r"Out of memory: Killed process|Memory cgroup out of memory|Exceeded job memory limit"),
    (Cause.OOM_HOST, 0.9, r"^MemoryError|std::bad_alloc|DefaultCPUAllocator: (can't allocate|not enough) memory"),
    (
        Cause.OOM_HOST,
        0.85,
        r"Cannot allocate memory|\[Errno 12\]|workers? are out of shared memory|Unable to allocate .*array",
    ),
    # Device memory.
    (Cause.OOM_GPU, 0.95, r"(CUDA|HIP) out of memory|CUDA error: out of memory|(cuda|torch)\.OutOfMemoryError"),
    (
        Cause.OOM_GPU,
        0.85,
        r"CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation|RESOURCE_EXHAUSTED: (XLA:.*)?Out of memory",
    ),
    # The program's own use of the device.
    (Cause.APPLICATION_ERROR, 0.95, r"device-side assert triggered|Assertion `.*` failed|indexSelect.*Assertion"),
    (Cause.APPLICATION_ERROR, 0.75, r"illegal memory access|misaligned address|invalid device (ordinal|function)"),
    (Cause.APPLICATION_ERROR, 0.75, r"Found no NVIDIA driver|not compiled with CUDA|driver version is insufficient"),
    (Cause.APPLICATION_ERROR, 0.7, r"Xid \(PCI:\S+\): (8|11|13|25|31|32|43|45|68|69)\b"),
    # The device.
    (
        Cause.GPU,
        0.95,
        r"uncorrectable (NVLink |ECC )?error|uncorrectable ECC|cudaErrorECCUncorrectable|ECC error encountered",
    ),
    (Cause.GPU, 0.95, r"fallen off the bus|GPU is lost|GPU has fallen|Unable to determine the device handle for GPU"),
    (Cause.GPU, 0.9, r"Xid \(PCI:\S+\): \d+|GPU requires reset|NVML: (GPU is lost|Unknown Error)"),
    (Cause.GPU, 0.75, r"CUDA-capable device\(s\) is/are busy or unavailable|no CUDA-capable device is detected"),
    (
        Cause.GPU,
        0.75,
        r"system not yet initialized|No CUDA GPUs are available|hardware stack error|illegal instruction was enc",
    ),
    (Cause.GPU, 0.6, r"CUDA error: unspecified launch failure|unspecified launch failure"),
    # The fabric.
    (
        Cause.FABRIC,
        0.85,
        r"NET/IB.*(Got completion|failed with error|Async fatal|error event|port error)|ibv_\w+ failed",
    ),
    (
        Cause.FABRIC,
        0.85,
        r"NET/OFI.*(failed|error)|link (is )?down|Local (work queue|QP operation) (catastrophic )?error|RETRY_EXC",
    ),
    (Cause.FABRIC, 0.7, r"No route to host|Network is (unreachable|down)|transport retry count(er)? exceeded"),
    # Storage. An exhausted limit of inotify has the same errno as a full disk.
    (Cause.APPLICATION_ERROR, 0.85, r"inotify"),
    (Cause.STORAGE, 0.92, r"No space left on device|Disk quota exceeded|Quota exceeded|\[Errno (28|122)\]"),
    (Cause.STORAGE, 0.9, r"(Stale|stale) (NFS )?file handle|Read-only file system|\[Errno (116|30)\]"),
    (
        Cause.STORAGE,
        0.88,
        r"Input/output error|\[Errno 5\]|Remote I/O error|Cannot send after transport endpoint shutdown",
    ),
    (Cause.STORAGE, 0.8, r"LustreError|lustre.*evicted|nfs: server .* not responding|unexpected pos \d+ vs \d+"),
    (
        Cause.CHECKPOINT_DAMAGED,
        0.8,
        r"PytorchStreamReader failed|failed finding central directory|SafetensorError|HeaderTooLarge",
    ),
    (Cause.CHECKPOINT_DAMAGED, 0.7, r"UnpicklingError|invalid load key|not a ZIP archive|File is not a zip file"),
    # Whether it was the memory killer who killed a data loader's worker, the cgroup's own count tells.
    (Cause.OOM_HOST, 0.85, r"DataLoader worker \(pid.*\) is killed by signal: Bus error"),
    (Cause.RANK_KILLED, 0.75, r"DataLoader worker \(pid.*\) is killed by signal"),
    # Starting a step.
    (Cause.APPLICATION_ERROR, 0.9, r"(srun|sbatch|mpirun): (unrecognized option|invalid option|error: Invalid )"),
    (
        Cause.APPLICATION_ERROR,
        0.9,
        r"execve\(\):? .*(No such file|Permission denied)|was unable to launch the specified app",
    ),
    (Cause.SCHEDULER, 0.9, r"Unable to (create step|confirm allocation|contact slurm controller|allocate resources)"),
    (Cause.SCHEDULER, 0.9, r"[Jj]ob credential|Invalid job credential|Slurm controller not responding|launch failed: "),
    (
        Cause.SCHEDULER,
        0.85,
        r"Zero Bytes were transmitted|Socket timed out on send/recv|Communication connection failure",
    ),
    (
        Cause.SCHEDULER,
        0.85,
        r"Requested node config|Requested nodes are busy|Job/step already|Invalid node name",
    ),
    (
        Cause.SCHEDULER,
        0.8,
        r"Memory required by task is not available|More processors requested|Step creation temporarily",
    ),
    (
        Cause.APPLICATION_ERROR,
        0.85,
        r"Address already in use|EADDRINUSE|: command not found|ModuleNotFoundError|ImportError",
    ),
    (Cause.NAN, 0.85, r"[Ll]oss (is|became|=|:) ?(nan|inf)\b|(non-finite|nan) (loss|grad)|returned nan values"),
)
_CASCADES: tuple[tuple[Cause, float, str], ...] = (
    (
        Cause.PROGRAM_HANG,
        0.6,
        r"[Ww]atchdog caught collective operation timeout|collective operation timeout: WorkNCCL",
    ),
    (
        Cause.PROGRAM_HANG,
        0.6,
        r"Timed out waiting \d+ ?ms for (send|recv) operation|Some NCCL operations have failed or timed",
    ),
    (
        Cause.PROGRAM_HANG,
        0.55,
        r"Timed out after \d+ seconds waiting for|wait timeout after \d+ ?ms|Monitored ?Barrier.*failed",
    ),
    (Cause.UNKNOWN, 0.3, r"Connection (reset|closed|refused|aborted)|connection was (reset|closed)|Broken pipe"),
    (
        Cause.UNKNOWN,
        0.3,
        r"connectFullMesh failed|recvBytes|DistNetworkError|ncclRemoteError|ncclSystemError|NCCL.*abort",
    ),
    (
        Cause.UNKNOWN,
        0.3,
        r"PMIX ERROR|PMIx.*(error|ERROR)|was aborted|MPI_ERR_PROC_FAILED|Fatal error in (internal_|P?MPI_)",
    ),
    (
        Cause.UNKNOWN,
        0.3,
        r"DistBackendError|DistStoreError|Timed out waiting .* store|ncclUnhandledCudaError|ncclInternalError",
    ),
    (
        Cause.UNKNOWN,
        0.3,
        r"peer process has unexpectedly disconnected|RendezvousConnectionError|SignalException|EOFError",
    ),
    (Cause.UNKNOWN, 0.3, r"the rank's wrapper was killed|no agent for \d+ s|heartbeat monitor|lost communication with"),
    (Cause.UNKNOWN, 0.3, r"torchrun has ended this rank"),
)
_TABLE = tuple(
    (re.compile(pattern), cause, role, weight)
    for role, rows in (
        (Role.ECHO, [(Cause.UNKNOWN, 0.0, pattern) for pattern in _ECHOES]),
        (Role.INITIATING, _INITIATING),
        (Role.CASCADE, _CASCADES),
    )
    for cause, weight, pattern in rows
)
_PREFIX = re.compile(r"^(\[(rank|default)\d+\]:? ?|\d+: )", re.MULTILINE)
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\):", re.MULTILINE)
_CHAINED = re.compile(r"The above exception was the direct cause|During handling of the above exception")
_EXCEPTION = re.compile(
    r"^(?P<line>(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): ?.*)$", re.MULTILINE
)
_RAISED = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)+(?P<line>(?P<name>[A-Za-z_][\w.<>]*)(?::.*)?)$", re.MULTILINE
)
"""An exception by its usual name, or by its place below the frames: a program's own may have any name."""
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_EXCEPTION_WEIGHT = 0.85
_HANDLED, _BEFORE = 0.6, 0.8
"""What was said before the last traceback, and not in its chain, has probably been got over; less so where the last one
is a consequence: then it may be of this."""


def plain(text: str) -> str:
    """Return the text without the marks that launchers put before each line of a rank."""
    return _PREFIX.sub("", text)


def read_line(line: str) -> Reading | None:
    """Return what one line says, or None where it says nothing about a failure."""
    for pattern, cause, role, weight in _TABLE:
        if pattern.search(line):
            return Reading(cause=cause, role=role, weight=weight, line=line.strip())
    return None


@lru_cache(maxsize=256)
def read(text: str) -> Reading | None:
    """Return what the last words of a process say: the strongest initiating line, else a consequence, else nothing.

    The last exception counts as the program's own where no line of its chain says better. Remembered, because to find
    out what would have changed a verdict the same words are read again and again.
    """
    text = plain(text)
    begin = _last_chain(text)
    last = last_exception(text)
    meant = read_line(last) if last else None
    follows = meant is not None and meant.role is Role.CASCADE
    found = [*_readings(text[begin:], 1.0), *_readings(text[:begin], _BEFORE if follows else _HANDLED)]
    initiating = [each for each in found if each.role is Role.INITIATING]
    cascades = [each for each in found if each.role is Role.CASCADE]
    if last and meant is None:
        initiating.append(
            Reading(cause=Cause.APPLICATION_ERROR, role=Role.INITIATING, weight=_EXCEPTION_WEIGHT, line=last)
        )
    strongest = max(initiating, key=lambda each: each.weight, default=None)
    return strongest or max(cascades, key=lambda each: each.weight, default=None)


def _readings(text: str, share: float) -> Iterator[Reading]:
    for line in text.splitlines():
        found = read_line(line)
        if found is not None and found.role is not Role.ECHO:
            yield Reading(cause=found.cause, role=found.role, weight=found.weight * share, line=found.line)


def _last_chain(text: str) -> int:
    """Where the last chain of exceptions begins; 0 without one."""
    starts = [found.start() for found in _TRACEBACK.finditer(text)]
    begin = starts.pop() if starts else 0
    while starts and _CHAINED.search(text, starts[-1], begin):
        begin = starts.pop()
    return begin


def last_exception(text: str) -> str:
    """Return the last `SomeError: text` line of a traceback, or nothing."""
    found = _last_match(plain(text))
    return found["line"].strip() if found else ""


def place_of_error(text: str) -> str:
    """Return type and innermost frame of the last exception: the same for the same error with other values."""
    text = plain(text)
    found, frames = _last_match(text), list(_FRAME.finditer(text))
    name = found["name"] if found else ""
    frame = f"{frames[-1].group('file')}:{frames[-1].group('line')}" if frames else ""
    return f"{name} {frame}".strip()


def _last_match(text: str) -> re.Match[str] | None:
    """The last exception of the process's own; a launcher's summary of another's is none."""
    found = [each for each in (*_EXCEPTION.finditer(text), *_RAISED.finditer(text)) if not _is_echo(each["line"])]
    return max(found, key=lambda match: match.end(), default=None)


def _is_echo(line: str) -> bool:
    said = read_line(line)
    return said is not None and said.role is Role.ECHO
