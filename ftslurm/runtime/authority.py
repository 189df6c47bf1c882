"""Whether this supervisor may act: a majority of the agents has just answered, or the lease has just been renewed.

Freshness counts on the monotonic clock and runs out at two thirds of the time after which somebody else may claim the
run. A supervisor that was stopped and wakes up therefore finds its authority stale and does nothing until it is
renewed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ftslurm.errors import TryAgain
from ftslurm.journal import Lease

log = logging.getLogger(__name__)

TAKEOVER_AFTER_S = 6.0
FRESH_S = TAKEOVER_AFTER_S * 2 / 3
CALM_RENEWAL_S = 30.0
URGENT_RENEWAL_S = 1.0


class Authority:
    """Renews the lease in a thread of its own, seldom while the agents answer, often while they do not."""

    def __init__(self, lease: Lease, majority_age_s: Callable[[], float]) -> None:
        self._lease = lease
        self._majority_age_s = majority_age_s
        self._renewed = time.monotonic()
        self._fenced = threading.Event()
        self._stop = threading.Event()
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._renew_all, name="lease", daemon=True)
        self.storage_error = ""

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more."""
        self._stop.set()

    @property
    def fenced(self) -> bool:
        """True for good, once another supervisor has taken the lease."""
        return self._fenced.is_set()

    def fresh(self) -> bool:
        """Tell whether this supervisor may act now."""
        return min(self._majority_age_s(), time.monotonic() - self._renewed) < FRESH_S

    def wait(self) -> bool:
        """Wait until this supervisor may act; False when it never may again."""
        warned = False
        while not self.fresh() and not self.fenced and not self._stop.is_set():
            self._wanted.set()
            if not warned:
                log.warning("neither a majority of the agents nor the lease is fresh: nothing is done until one is")
                warned = True
            time.sleep(0.05)
        return not self.fenced

    def _renew_all(self) -> None:
        while not self._stop.is_set():
            # An agent that is lost may have been the majority: then nobody waits for the next calm renewal.
            self._wanted.wait(CALM_RENEWAL_S if self._majority_age_s() < FRESH_S / 2 else URGENT_RENEWAL_S)
            self._wanted.clear()
            if not self._stop.is_set() and not self._renew():
                self._stop.wait(URGENT_RENEWAL_S)

    def _renew(self) -> bool:
        """Take the next name of the lease; False when storage did not let us, or somebody else has taken it."""
        started = time.monotonic()
        try:
            self._lease.renew()
        except TryAgain as error:
            log.warning("%s: this supervisor is fenced", error)
            self._fenced.set()
            self._stop.set()
            return False
        except OSError as error:
            self.storage_error = str(error)
            log.warning("the lease cannot be renewed: %s", error)
            return False
        self.storage_error = ""
        self._renewed = started
        return True
