"""What is wrong with which node now, from the events of a journal. For XIDs the core's own words are taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftslurm.core.conditions import NodeChecked, NodeHealth, XidSeen
from ftslurm.core.health import Level
from ftslurm.insight.facts import says

if TYPE_CHECKING:
    from ftslurm.journal import Entry

XID = "gpu_xid"
SAID = "health_"


@dataclass(frozen=True, slots=True)
class Ill:
    """One thing that is wrong with a node; `since` is epoch seconds."""

    metric: str
    device: str
    level: Level
    reason: str
    since: float

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "device": self.device or None,
            "level": self.level.value,
            "reason": self.reason,
            "since": round(self.since, 3),
        }


@dataclass(slots=True)
class Ills:
    """Folds a journal's entries."""

    _found: dict[str, dict[tuple[str, str], Ill]] = field(default_factory=dict)

    def clear(self) -> None:
        """A new incarnation asks anew."""
        self._found.clear()

    def see(self, entry: Entry) -> None:
        """Take one entry in."""
        event = entry.event
        if isinstance(event, NodeHealth):
            self._set(event.node, Ill(event.metric, event.device, event.level, event.reason, entry.t))
        elif isinstance(event, XidSeen):
            for said in says(entry):
                if said.slug.startswith(SAID):
                    level = Level(said.slug.removeprefix(SAID))
                    reason = said.text.removeprefix(f"{event.node}: ")
                    self._set(event.node, Ill(XID, event.gpu, level, reason, entry.t))
        elif isinstance(event, NodeChecked):
            kept = self._found.get(event.node, {})
            self._found[event.node] = {key: ill for key, ill in kept.items() if _stays(ill, event)}

    def _set(self, node: str, ill: Ill) -> None:
        mine = self._found.setdefault(node, {})
        key = (ill.metric, ill.device)
        before = mine.get(key)
        if ill.level is Level.HEALTHY:
            mine.pop(key, None)
        elif ill.metric != XID or before is None or ill.level.rank > before.level.rank:
            mine[key] = ill

    def now(self) -> dict[str, tuple[Ill, ...]]:
        """What is wrong, worst first, by node."""
        return {
            node: tuple(sorted(ills.values(), key=lambda ill: -ill.level.rank))
            for node, ills in sorted(self._found.items())
            if ills
        }


def _stays(ill: Ill, event: NodeChecked) -> bool:
    name = f"{ill.metric}/{ill.device}" if ill.device else ill.metric
    return name in event.bad or (ill.metric == XID and ill.level is not Level.WARNING)
