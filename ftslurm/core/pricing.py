"""What a plan costs, in expected lost node-seconds, from what was measured in this run and what is known of the site.

The terms, for a plan that goes on with n of the w wanted nodes for a horizon H (the time left, at most four hours):

    redo      the work since the newest checkpoint, on the nodes that did it: every plan has to do it again
    restart   n x (time from a launch to the release of its ranks, the median of this run)
    missing   (w - n x efficiency) x H where n < w: the share of the work that is not done; the efficiency is
              what the user says, else what the run's own steps tell (`core.scaling`), else 1
    failures  rate x n x H further failures, each of them n x (restart + half the time between two checkpoints)
    waiting   w x (Slurm's own delay + the queue's wait), of a requeue alone

A wait that nobody knows is taken to be as long as the horizon, so a requeue is the plan of last resort then. The rate
is that of the largest published training (Llama 3: 419 unexpected stops of 2,048 nodes in 54 days).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

HORIZON_S = 4 * 3600.0
REQUEUE_DELAY_S = 129.0
"""Slurm's own delay before a requeued job may start again: cred_expire + 1 s, and what the scheduler adds."""
RESTART_S = 5.0
"""The cost of a restart before one was measured."""
FAILURES_PER_NODE_DAY = 0.00379
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What prices are made of.

    Attributes:
        wanted: the nodes that the user asked for.
        horizon_s: how far ahead a plan is priced.
        restart_s: from a launch to the release of its ranks.
        redo_node_s: work that every plan has to do again.
        interval_s: the time between two checkpoints; 0 where it is not known.
        queue_wait_s: how long a requeued job waits beyond Slurm's own delay; None: nobody knows.
        efficiency: the work of a node in a smaller world, as a share of that in the full one.
    """

    wanted: int
    horizon_s: float = HORIZON_S
    restart_s: float = RESTART_S
    redo_node_s: float = 0.0
    interval_s: float = 0.0
    queue_wait_s: float | None = None
    efficiency: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The terms of a price; each is in node-seconds."""

    redo: float = 0.0
    restart: float = 0.0
    missing: float = 0.0
    failures: float = 0.0
    waiting: float = 0.0

    @property
    def total(self) -> float:
        """The whole price."""
        return self.redo + self.restart + self.missing + self.failures + self.waiting

    def words(self) -> str:
        """The price and the terms that make a difference to it, the largest first."""
        terms = sorted(((getattr(self, each.name), each.name) for each in fields(self)), reverse=True)
        parts = ", ".join(f"{name} {value:.0f}" for value, name in terms if value >= 0.5)
        return f"{self.total:.0f} node-s" + (f" ({parts})" if parts else "")


FREE = Price()


def of_going_on(nodes: int, rates: Rates) -> Price:
    """Return the price of going on in this allocation with `nodes` nodes."""
    done = nodes * rates.efficiency if nodes < rates.wanted else float(nodes)
    return Price(
        redo=rates.redo_node_s,
        restart=nodes * rates.restart_s,
        missing=max(rates.wanted - done, 0.0) * rates.horizon_s,
        failures=_failures(nodes, rates),
    )


def of_requeue(rates: Rates) -> Price:
    """Return the price of asking Slurm for other nodes."""
    wait_s = rates.horizon_s if rates.queue_wait_s is None else rates.queue_wait_s
    return Price(
        redo=rates.redo_node_s,
        restart=rates.wanted * rates.restart_s if rates.queue_wait_s is not None else 0.0,
        failures=_failures(rates.wanted, rates) if rates.queue_wait_s is not None else 0.0,
        waiting=rates.wanted * (REQUEUE_DELAY_S + wait_s),
    )


def _failures(nodes: int, rates: Rates) -> float:
    expected = FAILURES_PER_NODE_DAY / _DAY_S * nodes * rates.horizon_s
    return expected * nodes * (rates.restart_s + rates.interval_s / 2)


def wait_words(rates: Rates) -> str:
    """Return what is known of the queue's wait, for a plan's reason."""
    if rates.queue_wait_s is None:
        return f"nobody knows the queue's wait, taken as {rates.horizon_s:.0f} s"
    return f"the queue's wait is expected to be {rates.queue_wait_s:.0f} s"
