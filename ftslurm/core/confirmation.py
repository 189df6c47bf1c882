"""How much evidence it takes to give a node up, by what else is happening.

- An incident is what was lost within `INCIDENT_S` seconds. Beyond `allowed` nodes in one, every further node needs hard
  evidence of its own: when many nodes seem to be gone, the observer is the likelier cause. The same holds, from the
  first node on, for an observer that misses most of the others at once.
- Where beats came unevenly (`NodeSuspected.patience`) a single round of questions proves little: several in a row must
  agree.
- What stays short of the proof for `SHORT_ROUNDS` rounds leads to a requeue, which excludes nobody.
- An undecided node is told when the findings have changed, and else seldom; it is asked again ever more seldom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ftslurm.core.detector import misses_many
from ftslurm.core.events import Finding, NodeSuspected
from ftslurm.core.state import Doubt, Run
from ftslurm.core.verdict import NodeVerdict, Verdict

INCIDENT_S = 300.0
SHARE = 0.05
UNSTEADY = 1.5
ROUNDS = 3
SHORT_ROUNDS = 3
SELDOM_S = 600.0
LONGEST_PAUSE_S = 30.0


def allowed(run: Run) -> int:
    """Return how many nodes may be given up in one incident on the word of two witnesses each."""
    return max(1, int(len(run.nodes) * SHARE))


def recent(run: Run, now: float) -> tuple[str, ...]:
    """Return the nodes that were given up in the incident that is going on."""
    return tuple(node for node, at in run.fallen.items() if now - at <= INCIDENT_S)


def misses_most(run: Run, event: NodeSuspected | None = None) -> bool:
    """Tell whether most of the other nodes, and at least two, are silent at once: perhaps the observer is cut off."""
    if event is None and len(run.suspects) < 2:
        return False
    others = len(set(run.nodes) - set(run.condemned)) - 1
    silent, peers = (event.peers_silent + 1, event.peers + 1) if event else (0, 0)
    return misses_many(len(run.suspects), others) or misses_many(silent, peers)


def wants_hard(run: Run, now: float) -> bool:
    """Tell whether one more node needs hard evidence of its own."""
    return run.self_doubt or misses_most(run) or len(recent(run, now)) >= allowed(run)


def rounds_wanted(patience: float) -> int:
    """Return how many rounds in a row must agree, by how far the detector's patience was stretched."""
    return ROUNDS if patience > UNSTEADY else 1


def after_round(doubt: Doubt, verdict: NodeVerdict) -> Doubt:
    """Return the doubt after one more round of questions is over."""
    return replace(
        doubt,
        rounds=doubt.rounds + 1,
        agreed=doubt.agreed + 1 if verdict.verdict is Verdict.LOST else 0,
        short=doubt.short + 1 if verdict.short else 0,
    )


def pause_s(doubt: Doubt, reprobe_s: float) -> float:
    """Return how long to wait before the next round: the first ones follow quickly, then ever more seldom."""
    return min(reprobe_s * 2.0 ** max(0, min(doubt.rounds - ROUNDS, 10)), max(LONGEST_PAUSE_S, reprobe_s))


def words_of(findings: Sequence[Finding]) -> str:
    """Return what was found, without details and times: equal for two rounds that found the same."""
    return " ".join(sorted(f"{finding.witness}={finding.outcome}" for finding in findings))


def is_news(doubt: Doubt, words: str, now: float) -> bool:
    """Tell whether a round is worth a sentence."""
    return words != doubt.said or now - doubt.said_at >= SELDOM_S
