"""Whether this supervisor may act: a majority of the agents has just answered, or the lease has just been renewed.

Both count on the monotonic clock from the moment of *sending*: of the word that an agent has answered, of the call that
renewed the lease. They run out before anybody else may act, so that two supervisors never act at a time, also where one
of them was stopped and wakes up:

- A claim needs half of the agents not to have heard this supervisor for `takeover_after`; a majority's answer counts
  for two thirds of that.
- Who has claimed the lease waits `LEASE_FRESH_S` before it acts; a renewal counts for no longer than that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ftslurm.errors import TryAgain
from ftslurm.journal import Lease

log = logging.getLogger(__name__)

LEASE_FRESH_S = 1.5
CALM_RENEWAL_S = 30.0
URGENT_RENEWAL_S = 0.4
POLL_S = 0.05
WARN_S = 1.0
AGAIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long an authority lasts.

    `takeover_after_s`: silence after which an agent may claim. `no_quorum_after_s`: how long this supervisor waits for
    its authority to come back.
    """

    takeover_after_s: float = 6.0
    no_quorum_after_s: float = 300.0

    @property
    def fresh_s(self) -> float:
        """For how long the answer of a majority counts."""
        return self.takeover_after_s * 2 / 3


class Authority:
    """Renews the lease in a thread of its own, seldom while the agents answer, often while they do not."""

    def __init__(
        self,
        lease: Lease,
        majority_age_s: Callable[[], float],
        terms: Terms = Terms(),
        on_no_quorum: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_no_quorum` is called after `no_quorum_after_s` without authority, and again until it has fenced us."""
        self._lease = lease
        self._majority_age_s = majority_age_s
        self._terms = terms
        self._on_no_quorum = on_no_quorum
        self._renewed = float("-inf")
        self._stale_since: float | None = None
        self._ask_again = 0.0
        self._warned = False
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

    def fence(self, reason: str) -> None:
        """Act no more, for good."""
        if not self._fenced.is_set():
            log.error("this supervisor is fenced: %s", reason)
        self._fenced.set()
        self._stop.set()

    @property
    def fenced(self) -> bool:
        """True for good, once another supervisor has taken the run over."""
        return self._fenced.is_set()

    def fresh(self) -> bool:
        """Tell whether this supervisor may act now."""
        if self.fenced:
            return False
        if self._majority_age_s() < self._terms.fresh_s or time.monotonic() - self._renewed < LEASE_FRESH_S:
            # Whoever asks: two short absences, minutes apart, are not one long one.
            self._stale_since, self._warned = None, False
            return True
        return False

    def wait(self) -> bool:
        """Wait until this supervisor may act; False when it never may again."""
        while not self.fresh() and self.lasts() and not self._stop.is_set():
            time.sleep(POLL_S)
        return not self.fenced

    def lasts(self) -> bool:
        """To be called again and again where something is waited for: False when this supervisor never may act again.

        Has the lease renewed when nothing else is fresh, and has the run given up when that does not help for long.
        """
        if self.fresh():
            return True
        now = time.monotonic()
        self._wanted.set()
        self._stale_since = now if self._stale_since is None else self._stale_since
        if not self._warned and now > self._stale_since + WARN_S:
            log.warning("neither a majority of the agents nor the lease is fresh: nothing is done until one is")
            self._warned = True
        if now > max(self._stale_since + self._terms.no_quorum_after_s, self._ask_again):
            self._ask_again = now + AGAIN_S
            self._on_no_quorum()
        return not self.fenced

    def _renew_all(self) -> None:
        while not self._stop.is_set():
            # An agent that is lost may have been the majority: then nobody waits for the next calm renewal.
            calm = self._majority_age_s() < self._terms.fresh_s / 2
            self._wanted.wait(CALM_RENEWAL_S if calm else URGENT_RENEWAL_S)
            self._wanted.clear()
            if not self._stop.is_set() and not self._renew():
                self._stop.wait(URGENT_RENEWAL_S)

    def _renew(self) -> bool:
        """Take the next name of the lease; False when storage did not let us, or somebody else has taken it."""
        started = time.monotonic()
        try:
            self._lease.renew()
        except TryAgain as error:
            self.fence(str(error))
            return False
        except OSError as error:
            self.storage_error = str(error)
            log.warning("the lease cannot be renewed: %s", error)
            return False
        self.storage_error = ""
        self._renewed = started
        return True
