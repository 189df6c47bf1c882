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
    """The round of questions about one node: one deadline for all, answers passed on as they come."""

    def __init__(self, job_id: str, slurm: SlurmClient) -> None:
        self._job_id = job_id
        self._slurm = slurm

    def ask(
        self, node: str, where: tuple[str, int], others: Mapping[str, tuple[str, int]], emit: Callable[[Event], None]
    ) -> None:
        """Ask about `node`, which was last reached at `where`; `others` are other nodes, the last heard first."""
        from ftslurm.runtime.probes import ProbeTarget, confirm

        heard: list[Finding] = []
        lock = Lock()
        peer_address, peer_port = next((place for name, place in others.items() if name != node), ("", 0))

        def report(finding: Finding) -> None:
            with lock:
                heard.append(finding)
                emit(NodeProbed(node=node, findings=_with_peer(heard, alone=not peer_address), final=False))

        target = ProbeTarget(
            node=node,
            address=where[0],
            port=where[1],
            job_id=self._job_id,
            peer=peer_address,
            peer_port=peer_port,
            slurm=lambda: self._node_state(node),
        )
        findings = confirm(target, DEADLINE_S, report)
        emit(NodeProbed(node=node, findings=_with_peer(findings, alone=not peer_address), final=True))

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
