"""The public trace that is not part of the project: beside the repository, if it is there at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftslurm.core.lemons import DAY_S
from ftslurm.plan.trace import Trace, read_trace

TRACE = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpu-node-faults-first-174-days.json"
NODES, DAYS = 400, 174.0
needs_trace = pytest.mark.skipif(not TRACE.exists(), reason=f"the public trace is not beside the repository: {TRACE}")


def public_trace() -> Trace:
    """The trace with what its README says of it: 400 nodes, 174 days."""
    return read_trace(TRACE, NODES, DAYS * DAY_S)
