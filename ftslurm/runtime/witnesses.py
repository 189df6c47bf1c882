"""Asks the witnesses about a silent node, and reports as soon as enough of them have spoken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from ftslurm.core.events import Event, Finding, NodeProbed, Outcome, Witness
from ftslurm.errors import FtslurmError
from ftslurm.slurm.client import SlurmClient
from ftslurm.slurm.records import NodeInfo

log = logging.getLogger(__name__)

DEADLINE_S = 3.0


class Witnesses:
    """The round of questions about one node: one deadline for all, answers passed on as they come.

    `ring` returns what the MPI ring says of a node: OK where it beats there, UNREACHABLE where its neighbour misses it.
    """

    def __init__(
        self,
        job_id: str,
        slurm: SlurmClient,
        *,
        ring: Callable[[str], Finding] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._job_id = job_id
        self._slurm = slurm
        self._ring = ring
        self._deadline_s = deadline_s

    def ask(
        self, node: str, where: tuple[str, int], others: Mapping[str, tuple[str, int]], emit: Callable[[Event], None]
    ) -> None:
        """Ask about `node`, which was last reached at `where`; `others` are other nodes, the last heard first."""
        from ftslurm.runtime.probes import ProbeTarget, confirm

        heard: list[Finding] = []
        lock = Lock()
        others = {name: place for name, place in others.items() if name != node}
        peer, (peer_address, peer_port) = next(iter(others.items()), ("", ("", 0)))

        def words(findings: Sequence[Finding]) -> tuple[Finding, ...]:
            return (*_with_peer(findings, alone=not peer_address), *self._ring_word(node))

        def report(finding: Finding) -> None:
            with lock:
                heard.append(finding)
                emit(NodeProbed(node=node, findings=words(heard), final=False))

        target = ProbeTarget(
            node=node,
            address=where[0],
            port=where[1],
            job_id=self._job_id,
            peer=peer_address,
            peer_port=peer_port,
            peer_node=peer,
            slurm=lambda: self._node_state(node),
        )
        findings = confirm(target, self._deadline_s, report)
        emit(NodeProbed(node=node, findings=words(findings), final=True))

    def _ring_word(self, node: str) -> tuple[Finding, ...]:
        """The ring's word; whether its silence on a node counts is its own matter (`core.ringing`)."""
        return () if self._ring is None else (self._ring(node),)

    def _node_state(self, node: str) -> Finding:
        """Slurm's word. Only DOWN counts against a node; NOT_RESPONDING says no more than our own silence does."""
        try:
            info: NodeInfo | None = self._slurm.nodes((node,)).get(node)
        except FtslurmError as error:
            return Finding(witness=Witness.SLURM, outcome=Outcome.UNKNOWN, detail=str(error)[:200])
        if info is None:
            return Finding(witness=Witness.SLURM, outcome=Outcome.UNKNOWN, detail="Slurm does not know the node")
        words = "+".join(sorted(info.words)) + (f", {info.reason}" if info.reason else "")
        return Finding(witness=Witness.SLURM, outcome=Outcome.FAILED if info.down else Outcome.OK, detail=words)


def _with_peer(findings: Sequence[Finding], *, alone: bool) -> tuple[Finding, ...]:
    """Where no third node exists, slurmctld's answer shows as well that the observer is not the one that is cut off."""
    if not alone:
        return tuple(findings)
    kept = tuple(finding for finding in findings if finding.witness is not Witness.PEER)
    answered = any(each.witness is Witness.SLURM and each.outcome is not Outcome.UNKNOWN for each in kept)
    outcome = Outcome.OK if answered else Outcome.UNKNOWN
    return (*kept, Finding(witness=Witness.PEER, outcome=outcome, detail="slurmctld stands in: no third node"))
