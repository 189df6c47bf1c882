"""How much room checkpoints take on shared storage and on nodes, and how fast they have to get there."""

from __future__ import annotations

from collections.abc import Iterator

from ftslurm.insight.text import took
from ftslurm.plan import table
from ftslurm.plan.inputs import Inputs
from ftslurm.plan.table import Row
from ftslurm.runtime.settings import policy_of

ON_NODES = 2
"""The newest checkpoint, and the one that is being written; older ones go once a newer one is durable."""


def space(inputs: Inputs, interval_s: float) -> Iterator[Row]:
    """Bytes on shared storage and on each node, and bytes a second, for one checkpoint every `interval_s` of work."""
    if not inputs.config.checkpoint.is_watched:
        yield table.words("none", "checkpoints", "none", "checkpoint.files is not set: none is watched, none is kept")
        return
    state = inputs.state_bytes
    if state is None:
        why = "nobody knows how large a checkpoint is: give plan.state, or --from an earlier run"
        yield table.size("state", "one checkpoint", None, why)
        return
    yield table.size("state", "one checkpoint", state.value, state.source)
    yield from _kept(inputs, interval_s, state.value)
    if not inputs.config.checkpoint.in_place and inputs.config.checkpoint.scratch != "none":
        yield _on_nodes(inputs, state.value)
    yield from _drains(inputs, interval_s, state.value)


def _kept(inputs: Inputs, interval_s: float, state_bytes: float) -> Iterator[Row]:
    """What retention keeps on shared storage; differential saves are counted as full ones."""
    saved = inputs.config.checkpoint
    every_s = _durable_every(inputs, interval_s)
    many, why = saved.keep_last, [f"keep_last {saved.keep_last}"]
    if saved.max_age is not None and saved.max_age / every_s > many:
        many, why = round(saved.max_age / every_s), [f"one every {took(every_s)} for max_age {took(saved.max_age)}"]
    if saved.keep_best is not None:
        many, why = many + saved.keep_best.count, [*why, f"keep_best {saved.keep_best.count}"]
    why.append("one that is being written")
    if saved.keep_every:
        why.append(f"without those that keep_every ({saved.keep_every} steps) keeps for good")
    if saved.in_library and saved.full_every > 1:
        why.append("differential ones counted as full")
    yield table.number("kept", "checkpoints kept", many + 1, "; ".join(why))
    yield table.size("shared", "on shared storage", (many + 1) * state_bytes, "as many of that size")


def _on_nodes(inputs: Inputs, state_bytes: float) -> Row:
    copies = 2 if policy_of(inputs.config).partner else 1
    each = ON_NODES * copies * state_bytes / inputs.nodes
    beside = ", each also for a partner (checkpoint.partner)" if copies == 2 else ""
    why = f"its share of {ON_NODES} checkpoints{beside}; every node holds an equal share"
    return table.size("scratch", "on every node's scratch", each, why)


def _durable_every(inputs: Inputs, interval_s: float) -> float:
    return max(interval_s + inputs.save.value, inputs.config.checkpoint.durable_every or 0.0)


def _drains(inputs: Inputs, interval_s: float, state_bytes: float) -> Iterator[Row]:
    """What shared storage has to take, and whether it does."""
    saved, plan = inputs.config.checkpoint, inputs.config.plan
    every_s = _durable_every(inputs, interval_s)
    needed = state_bytes / every_s
    yield table.speed("needed", "shared storage must take", needed, f"one checkpoint every {took(every_s)}")
    limits = []
    if plan.shared_bandwidth is not None:
        limits.append((float(plan.shared_bandwidth), "plan.shared_bandwidth"))
    if saved.rate_limit is not None:
        width = min(saved.drain_width, inputs.nodes)
        limits.append((float(saved.rate_limit * width), f"checkpoint.rate_limit of {width} nodes at a time"))
    if not limits:
        yield table.speed(
            "allowed", "it can take", None, "neither plan.shared_bandwidth nor checkpoint.rate_limit is given"
        )
        return
    allowed, why = min(limits)
    yield table.speed("allowed", "it can take", allowed, why)
    drain_s = state_bytes / allowed
    verdict = "done before the next one" if drain_s <= every_s else (
        f"longer than the {took(every_s)} between two: fewer become durable; raise checkpoint.durable_every"
    )  # fmt: skip
    yield table.seconds("drain", "a drain takes", drain_s, verdict)
