"""The random numbers of a rank: of Python, NumPy and torch (CPU and the current GPU).

On as many ranks as before, each rank goes on with its own numbers, exactly. On another number of ranks nobody can: the
states are derived anew from the run's seed, the step and the new rank, so that a run that is restored twice in the same
way draws the same numbers, and no two ranks draw alike. The next checkpoint records at which steps that was done.
"""

from __future__ import annotations

import hashlib
import random
import sys
from typing import Any

from ftslurm.core.strictjson import refuse


def state() -> dict[str, Any]:
    """Return the states of all generators of this process, as `checkpoint.objects` can pack them."""
    found: dict[str, Any] = {"python": random.getstate()}
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        found["numpy"] = numpy.random.get_state()
    if torch is not None:
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            found["cuda"] = torch.cuda.get_rng_state()
    return found


def restore(saved: object) -> None:
    """Take up what `state` has returned; generators of libraries that are not loaded now are left out.

    Raises:
        DataDamaged: it is no such state.
    """
    if not isinstance(saved, dict) or "python" not in saved:
        refuse("the states of the random numbers are malformed")
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    try:
        random.setstate(saved["python"])
        if numpy is not None and "numpy" in saved:
            numpy.random.set_state(saved["numpy"])
        if torch is not None and "torch" in saved:
            torch.set_rng_state(saved["torch"])
        if torch is not None and "cuda" in saved and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["cuda"])
    except (TypeError, ValueError, RuntimeError) as error:
        refuse(f"the states of the random numbers are malformed: {error}")


def derive(seed: int, step: int, rank: int) -> None:
    """Begin anew, from these three numbers alone."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    number = int.from_bytes(digest[:8], "little")
    random.seed(number)
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        numpy.random.seed(number % 2**32)
    if torch is not None:
        torch.manual_seed(number)
