"""The time limit of a job whose script is the user's own: nobody warns its supervisor, which watches the clock.

`--signal=B:` goes to the batch shell alone. Scripts that ftslurm writes have a trap for it; where there is none, the
shell dies of it, and the job with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ftslurm.errors import FtslurmError
from ftslurm.slurm.client import SlurmClient

log = logging.getLogger(__name__)

ASK_S = 3.0
AGAIN_S = 60.0
UNLIMITED_S = 600.0


def watch_the_limit(job_id: str, lead_s: float, emit: Callable[[], None]) -> None:
    """Call `emit` once, `lead_s` before the job's end as Slurm knows it then; or half of what is left now, if less."""
    threading.Thread(target=_wait, args=(job_id, lead_s, emit), name="time limit", daemon=True).start()


def _wait(job_id: str, lead_s: float, emit: Callable[[], None]) -> None:
    first = True
    while True:
        pause = AGAIN_S
        try:
            # Asked again before it counts: the limit may have been changed.
            end = SlurmClient(timeout_s=ASK_S).job(job_id).end_time
        except FtslurmError as error:
            log.warning("Slurm does not say when the job ends: %s", error)
        else:
            left = None if end is None else end - time.time()
            lead_s = min(lead_s, left / 2) if first and left is not None else lead_s
            if left is not None and left <= lead_s:
                emit()
                return
            first = first and left is None
            pause = UNLIMITED_S if left is None else min(left - lead_s, UNLIMITED_S)
        time.sleep(pause)
