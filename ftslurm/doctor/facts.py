"""What is known about a site, as one flat mapping; what is not in it is unknown, and says so when a rule asks for it.

Names have a prefix: `conf.` is `scontrol show config`, `slurm.` other words of Slurm, `host.` this host, `probe.` what
the probe job found on the nodes, `config.` the user's configuration, `limit.` what accounting allows it. A value None
means: somebody was asked and could not tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_RELEASE = re.compile(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?")

Value = str | float | bool | tuple[str, ...] | None


NOT_EVERYWHERE = frozenset(
    {
        "conf.CliFilterPlugins",
        "conf.JobContainerType",
        "conf.NamespaceType",
        "conf.PreemptParameters",
        "conf.ScronParameters",
    }
)
"""Settings that some releases do not have, or do not show: there they are not set."""


class UnknownFact(Exception):
    """A rule asked for something that nobody could tell."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known; every accessor raises UnknownFact for what is not."""

    values: Mapping[str, Value] = field(default_factory=dict)

    def get(self, name: str) -> str | float | bool | tuple[str, ...]:
        """The value of a fact."""
        value = self.values.get(name)
        if value is None and name in NOT_EVERYWHERE and self.knows("slurm.release"):
            return ""
        if value is None:
            raise UnknownFact(name)
        return value

    def knows(self, name: str) -> bool:
        """Whether it is known."""
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """A fact that is a text; empty: it is not set."""
        return str(self.get(name))

    def flag(self, name: str) -> bool:
        """A fact that is true or false."""
        return bool(self.get(name))

    def number(self, name: str) -> float:
        """A number, or the number that a setting of Slurm's begins with (`300 sec`)."""
        value = self.get(name)
        word = value.split()[0] if isinstance(value, str) and value else value
        try:
            return float(word)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise UnknownFact(name) from None

    def words(self, name: str) -> tuple[str, ...]:
        """The words of a list that is separated by commas, in small letters."""
        value = self.get(name)
        parts = value if isinstance(value, tuple) else str(value).split(",")
        return tuple(part.strip().lower() for part in parts if part.strip())

    def before(self, *release: int) -> bool:
        """Whether slurmctld is older than a release, given as numbers: 23, 2, 6."""
        return self.release("slurm.release") < release

    def release(self, name: str) -> tuple[int, ...]:
        """A release such as `22.05.8`, `24.11.0-0rc1`, as numbers."""
        match = _RELEASE.match(self.text(name))
        if match is None:
            raise UnknownFact(name)
        return tuple(int(part) for part in match.groups() if part)

    def shown(self, name: str) -> str:
        """A fact in words, for a report: `SlurmdTimeout = 300 sec`."""
        value = self.values.get(name)
        if value is None:
            said = "unknown"
        elif isinstance(value, bool):
            said = "yes" if value else "no"
        elif isinstance(value, tuple):
            said = ", ".join(value) or "none"
        else:
            said = _measured(name, value) if isinstance(value, float) else value or "not set"
        return f"{name.partition('.')[2]} = {said}"

    def also(self, more: Mapping[str, Value]) -> Facts:
        """These facts and more; the new ones win."""
        return Facts({**self.values, **more})


def _measured(name: str, value: float) -> str:
    """A number with its unit, which stands at the end of the fact's name."""
    if value == float("inf"):
        return "unlimited"
    if name.endswith("_bytes"):
        return f"{value / 2**30:.1f} GiB"
    return f"{value:.3g} s" if name.endswith("_s") else f"{value:g}"
