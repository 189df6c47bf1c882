"""How often each fault is drawn unless a plan says otherwise: as the failures of the largest published training.

Llama 3 405B, 54 days on 16,384 H100: 419 unexpected interruptions and their causes (arXiv 2407.21783, Table 5). What a
cause looks like to a run on machines without GPUs is our own judgement: a broken GPU ends its process, a broken cable
cuts a node off. Each cause's count is shared evenly by the faults that stand for it.
"""

from __future__ import annotations

from collections.abc import Mapping

INTERRUPTIONS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "faulty GPU": (148, ("abort", "kill", "segv")),
    "GPU HBM3 memory": (72, ("abort", "kill")),
    "software bug": (54, ("exit", "exception", "segv")),
    "network switch or cable": (35, ("node-cut", "net-one-way")),
    "host maintenance": (32, ("node-power",)),
    "GPU SRAM memory": (19, ("segv",)),
    "GPU system processor": (17, ("stop",)),
    "network interface": (7, ("node-cut",)),
    "NCCL watchdog timeout": (7, ("skip",)),
    "silent data corruption": (6, ("corrupt-kill",)),
    "GPU thermal interface and sensor": (6, ("slow",)),
    "SSD": (3, ("disk-full",)),
    "power supply": (3, ("node-power",)),
    "server chassis": (2, ("node-power",)),
    "IO expansion board": (2, ("node-freeze",)),
    "dependency": (2, ("exception",)),
    "CPU": (2, ("node-freeze",)),
    "system memory": (2, ("memory",)),
}


def weights() -> dict[str, float]:
    """The share of each fault that is drawn by default; they sum to 1."""
    total = sum(count for count, _ in INTERRUPTIONS.values())
    found: dict[str, float] = {}
    for count, names in INTERRUPTIONS.values():
        for name in names:
            found[name] = found.get(name, 0.0) + count / len(names) / total
    return found
