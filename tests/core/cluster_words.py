"""The words of a scenario about the cluster around the run: the queue, switches, loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftslurm.core.events import Event
from ftslurm.core.survey import NodesSurveyed, QueueEstimated

if TYPE_CHECKING:
    from tests.core.story import Words


class ClusterWords:
    """Part of `tests.core.story.Story`."""

    def happen(self, event: Event) -> None:
        """Take one step."""
        raise NotImplementedError

    def do_queue(self, words: Words) -> None:
        """`queue [60]`: how long a requeued job would wait; without a number nobody knows."""
        wait_s = float(words.plain[0]) if words.plain else None
        self.happen(QueueEstimated(wait_s=wait_s, source="test"))

    def do_surveyed(self, words: Words) -> None:
        """`surveyed n1=a n2=b load=n1:0.5,n2:2`: the switches of nodes, and their loads."""
        pairs = (text.split(":") for text in words.named.pop("load", "").split(",") if text)
        loads = tuple((node, float(load)) for node, load in pairs)
        self.happen(NodesSurveyed(switches=tuple(words.named.items()), loads=loads))
