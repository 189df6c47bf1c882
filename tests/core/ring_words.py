"""The words of scenarios about the MPI heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftslurm.core.fabric import FabricHeard, FabricSilent, RingChanged, RingState

if TYPE_CHECKING:
    from ftslurm.core.events import Event
    from tests.core.story import Words


class RingWords:
    """Lines that begin with `ring` and `fabric`."""

    def happen(self, event: Event) -> None:
        """Take one step."""
        raise NotImplementedError

    def do_ring(self, words: Words) -> None:
        """`ring up n1 n2 [detail=...]`, `ring lost`, `ring off`: heartbeats over MPI are there, have ended, cannot be."""
        state, *nodes = words.plain
        detail = words.named.get("detail", "Open MPI v5.0.11")
        self.happen(RingChanged(state=RingState(state), nodes=tuple(nodes), detail=detail))

    def do_fabric(self, words: Words) -> None:
        """`fabric n3 by=n4 [silent=6.5]`, `fabric n3 heard`: the ring alone misses a node, or hears it again."""
        heard = words.flag("heard")
        (node,) = words.plain
        if heard:
            self.happen(FabricHeard(node=node))
            return
        silent_s = words.number("silent", 6.5)
        self.happen(FabricSilent(node=node, by=words.named["by"], silent_s=silent_s, others=2, of=2))
