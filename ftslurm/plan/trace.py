"""A trace: which nodes of a fleet were out, when, for how long and why.

Two formats are read. JSON is that of the public trace stepfun-ai/InfiniteHBD-Trace (Apache-2.0, arXiv 2502.03885): a list
of events {node_id, event_time, event_type, fault_type}, times in days, `fault_start` and `fault_end` of a node in turns.
CSV has the header `node,start,end,kind`, times in seconds since the beginning of the trace, a line for each outage by
its start; an empty `end` is an outage that was not over when the trace ended.

Rule: what is out of order, negative, unknown or left out is an error with file, line and reason, never repaired here. A
trace that was mended by guessing would be fitted and believed.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ftslurm.errors import DataDamaged, StorageError, UsageError
from ftslurm.insight.text import visible

DAY_S = 86400.0
MOST_BYTES = 256 << 20
_COLUMNS = ["node", "start", "end", "kind"]
_EVENT = {"node_id", "event_time", "event_type", "fault_type"}
_FAULT = {"Level", "Class", "Desc"}
_LONGEST = 200


class Outage(NamedTuple):
    """A node was out.

    Attributes:
        node: its number, from 0.
        at_s: when, in seconds since the beginning.
        repair_s: until it could be used again; infinite where that was not before the end.
        kind: what failed, in the trace's or generator's own word.
    """

    node: int
    at_s: float
    repair_s: float
    kind: str = ""

    @property
    def end_s(self) -> float:
        """When it could be used again."""
        return self.at_s + self.repair_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Outages of a fleet, in the order of their beginning.

    Attributes:
        outages: the nodes in them are places in `names`, or numbers beyond for nodes that never failed.
        nodes: how many nodes were watched, those without any fault included.
        span_s: how long.
        names: of the nodes that failed, in the order in which they did.
    """

    outages: tuple[Outage, ...]
    nodes: int
    span_s: float
    names: tuple[str, ...] = ()


def read_trace(path: Path, nodes: int | None = None, span_s: float | None = None) -> Trace:
    """Read a trace; a name that ends in `.csv` is CSV, anything else JSON.

    Args:
        path: the file.
        nodes: the size of the fleet; None: the nodes that the trace names, which are too few if others never failed.
        span_s: how long the fleet was watched; None: until the last event.

    Raises:
        StorageError: the file cannot be read.
        DataDamaged: it is no such trace; the message has file, line and reason.
        UsageError: fewer nodes or a shorter time than the trace has.
    """
    raise NotImplementedError
