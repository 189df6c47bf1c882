"""What to do about an error code of NVIDIA's driver (XID): NVIDIA's catalogue as a table, our overrides with a reason.

The catalogue has 172 codes for Ampere and newer, 63 of them unused. Its "immediate action" is the default; where its
answer is a workflow for people, the table says what the workflow means for a run. Repeats of a code on one GPU within
5 s are one error; errors of a GPU with less than 3 min between them are one burst, and counting counts bursts.

An XID may explain the end of a job only within 10 min before and 5 min after it (Kokolis et al., "Revisiting
Reliability in Large-Scale Machine Learning Research Clusters", 2024): killing a job makes XIDs of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ftslurm.core.health import Consequence, Level

CATALOGUE = range(1, 173)
COALESCE_S = 5.0
BURST_S = 180.0
MEMORY_S = 7 * 86400.0
KEPT = 200
BEFORE_S = 600.0
AFTER_S = 300.0
SUSPECT_AFTER = 3


class Response(StrEnum):
    """What an XID asks for.

    IGNORE: nothing. RELAUNCH: the program ends by it and is started again; its third burst on one GPU makes the node
    suspect. RESET, REPLACE: the GPU is of no use before somebody has reset or repaired it. REPEAT: the first may be
    chance, the second is not. FOLLOW: another XID of the same burst says what happened. NOTE: people should read it.
    """

    IGNORE = "ignore"
    RELAUNCH = "relaunch"
    RESET = "reset"
    REPLACE = "replace"
    REPEAT = "repeat"
    FOLLOW = "follow"
    NOTE = "note"


def _codes(text: str) -> frozenset[int]:
    found: set[int] = set()
    for piece in text.split(","):
        low, _, high = piece.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return frozenset(found)


NVIDIA: Mapping[str, frozenset[int]] = {
    "RESTART_APP": _codes(
        "8,11,13,25,31,32,39-41,60,68-72,75-77,80,82-86,88,89,94,96-105,126-135,139",
    ),
    "IGNORE": _codes("37,38,43,44,63,66,67,92,93,106,107,121,137,141,152,153,157,160,161"),
    "RESET_GPU": _codes("46,62,64,95,109,110,119,120,136,140,143,155,156,158"),
    "RESTART_BM": _codes("79"),
    "RESTART_VM": _codes("151"),
    "CHECK_MECHANICALS": _codes("54"),
    "WORKFLOW": _codes("45,48,74,144-150"),
    "OTHER": _codes("78,142,154,159,162-172"),
}
"""NVIDIA's immediate action for every code that is in use."""

_RESPONSES: Mapping[str, Response] = {
    "RESTART_APP": Response.RELAUNCH,
    "IGNORE": Response.IGNORE,
    "RESET_GPU": Response.RESET,
    "RESTART_BM": Response.REPLACE,
    "RESTART_VM": Response.REPLACE,
    "CHECK_MECHANICALS": Response.REPLACE,
    "WORKFLOW": Response.NOTE,
    "OTHER": Response.NOTE,
}

_NVLINK = "one NVLink error is retried by the hardware; a second burst on the same GPU is a bad link"

OVERRIDES: Mapping[int, tuple[Response, str]] = {
    48: (Response.RESET, "an uncorrected double-bit error: the workflow ends in a reset, which only the site can do"),
    45: (Response.FOLLOW, "the driver cleans up after another error, or after a program that was killed"),
    74: (Response.REPEAT, _NVLINK),
    **dict.fromkeys(range(144, 151), (Response.REPEAT, _NVLINK)),
}
"""Where the answer is not the one of NVIDIA's immediate action, and why. Codes on which operators differ and NVIDIA's
answer stays: 109 (Meta counts it as harmless; the GPU is unusable until its reset) and 94 (Aegis counts it as critical;
the error is contained, and a restart is enough)."""

LEMON = _codes("63,92,160")
"""Harmless by themselves, but they precede failures of memory: the ledger of nodes counts them."""

_MEANINGS: Mapping[int, str] = {
    13: "graphics engine exception",
    31: "memory page fault of the program",
    43: "the GPU stopped processing for a program's error",
    45: "preemptive clean-up",
    48: "double-bit error",
    54: "auxiliary power is not connected",
    62: "micro-controller halt",
    63: "a row of memory was remapped",
    64: "a row of memory could not be remapped",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "high rate of single-bit errors",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch timeout",
    119: "GSP timeout",
    120: "GSP error",
    140: "unrecovered memory error",
    151: "key rotation error",
}


def response_to(code: int) -> Response:
    """Return what a code asks for; one that is unused or unknown is to be noted."""
    if code in OVERRIDES:
        return OVERRIDES[code][0]
    return next((_RESPONSES[action] for action, codes in NVIDIA.items() if code in codes), Response.NOTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Xid:
    """One error, as a run remembers it. `at` is wall clock: the memory of seven days outlives supervisors and hosts."""

    node: str
    gpu: str
    code: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What follows from an error, and the sentence that says why."""

    level: Level
    action: Consequence
    reason: str


def remember(seen: Sequence[Xid], new: Xid) -> tuple[Xid, ...]:
    """Return what is remembered after one more error: seven days, and not too many."""
    return (*(each for each in seen if new.at - each.at <= MEMORY_S), new)[-KEPT:]


def bursts(seen: Sequence[Xid], like: Xid) -> tuple[tuple[int, ...], ...]:
    """Return the codes of every burst on the GPU of `like`, oldest first; the order of `seen` is that of time."""
    found: list[list[int]] = []
    last = 0.0
    for each in seen:
        if (each.node, each.gpu) != (like.node, like.gpu):
            continue
        if not found or each.at - last > BURST_S:
            found.append([])
        found[-1].append(each.code)
        last = each.at
    return tuple(tuple(codes) for codes in found)


def judge(seen: Sequence[Xid], new: Xid) -> Judgement:
    """Return what follows from the newest error; `seen` are the remembered ones, the newest among them."""
    response = response_to(new.code)
    on_gpu = bursts(seen, new)
    times = sum(new.code in codes for codes in on_gpu)
    meaning = _MEANINGS.get(new.code, "")
    what = f"XID {new.code} on GPU {new.gpu}" + (f" ({meaning})" if meaning else "")
    if response in (Response.RESET, Response.REPLACE):
        need = "a reset" if response is Response.RESET else "a repair, or a reboot of the node"
        return Judgement(level=Level.FAILED, action=Consequence.EXCLUDE, reason=f"{what}: the GPU needs {need}")
    if response is Response.REPEAT and times > 1:
        reason = f"{what}, {times} times in 7 days: the link is bad"
        return Judgement(level=Level.FAILED, action=Consequence.EXCLUDE, reason=reason)
    if response is Response.RELAUNCH and times >= SUSPECT_AFTER:
        reason = f"{what}, {times} times in 7 days: the GPU is suspect"
        return Judgement(level=Level.CRITICAL, action=Consequence.AVOID, reason=reason)
    followed = response is Response.FOLLOW and len(set(on_gpu[-1])) > 1
    if response is Response.IGNORE or followed:
        return Judgement(level=Level.HEALTHY, action=Consequence.NONE, reason=f"{what}: nothing follows from it")
    return Judgement(level=Level.WARNING, action=Consequence.SAY, reason=f"{what}: {_ADVICE[response]}")


_ADVICE: Mapping[Response, str] = {
    Response.RELAUNCH: "the program's error, or one that a restart clears",
    Response.REPEAT: "may be chance; once more in 7 days excludes the node",
    Response.FOLLOW: "no other error of this GPU is near it; look at the fabric manager",
    Response.NOTE: "see NVIDIA's catalogue of XIDs",
}


def attributable(xid_mono: float, ended_mono: float) -> bool:
    """Tell whether an error may have to do with the end of an attempt."""
    return ended_mono - BEFORE_S <= xid_mono <= ended_mono + AFTER_S


def is_repeat(heard: Mapping[tuple[str, int], float], gpu: str, code: int, now: float) -> bool:
    """Tell whether an error is the same as one of a moment ago; `heard` is when each was heard last."""
    return now - heard.get((gpu, code), float("-inf")) <= COALESCE_S
