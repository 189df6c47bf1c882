"""What `ftslurm plan` says of the model (`plan.model`): memory of a rank, time of a step, the nodes that it fits on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ftslurm.insight.text import count, visible
from ftslurm.plan import memory, packing, pipelines, steptime, table
from ftslurm.plan.collectives import Algorithm, all_reduce_s
from ftslurm.plan.smaller import scaling
from ftslurm.plan.table import Part, Row
from ftslurm.quantities import short_size

if TYPE_CHECKING:
    from ftslurm.model_section import ModelSection
    from ftslurm.plan.inputs import Inputs
    from ftslurm.slurm.inventory import NodeGroup

STATES = {
    "weights": "parameters x weight_bytes",
    "gradients": "parameters x gradient_bytes",
    "optimizer": "parameters x optimizer_bytes",
}
WHY = {
    packing.Rule.FIRST_FIT: "the first in Slurm's order with enough idle nodes",
    packing.Rule.BEST_FIT: "the fewest idle nodes are left over",
    packing.Rule.LOAD_BALANCE: "the least share of its nodes is in use then",
}
_WIDEST = 40
_SHARED = {"optimizer": 1, "gradients": 2, "weights": 3}
"""The stage of ZeRO from which on the copies share it."""


def advise(inputs: Inputs, groups: Sequence[NodeGroup] | str) -> tuple[Part, ...]:
    """Return what can be said of the model, and of the steps of an earlier run; nothing where neither is known.

    Args:
        inputs: what the forecast reckons with.
        groups: the site's nodes, or why they are not known.
    """
    found = [Part("scaling", "how it scales", tuple(scaling(inputs)))]
    model, ranks = inputs.config.plan.model, inputs.nodes * inputs.config.resources.ranks_per_node
    if model is not None and ranks % model.model_ranks == 0:
        found.append(Part("memory", "memory of a rank", tuple(_memory(model, ranks))))
        found.append(Part("step", "time of a step", tuple(_step(model, ranks))))
    elif model is not None:
        found.append(Part("memory", "memory of a rank", (_uncut(model, ranks),)))
    if model is not None:
        found.append(Part("fit", "where it fits", tuple(_fit(inputs, model, groups))))
    return tuple(part for part in found if part.rows)


def asked(inputs: Inputs) -> Sequence[NodeGroup] | str:
    """Return the site's nodes, from Slurm, or why they are not known; nobody is asked where there is no model."""
    from ftslurm.errors import Refused, ServiceUnavailable, TryAgain
    from ftslurm.slurm.client import SlurmClient
    from ftslurm.slurm.inventory import node_groups

    if inputs.config.plan.model is None:
        return ()
    try:
        return node_groups(SlurmClient())
    except (ServiceUnavailable, Refused, TryAgain) as error:
        return str(error)


def _uncut(model: ModelSection, ranks: int) -> Row:
    why = f"{ranks} ranks are no multiple of tensor x pipeline = {model.model_ranks}: change resources or plan.model"
    return table.words("cut", "cut", "impossible", why)


def _memory(model: ModelSection, ranks: int) -> Iterator[Row]:
    copies = ranks // model.model_ranks
    need = memory.of_rank(model, copies)
    cut = f"{model.tensor} x {model.pipeline} x {copies}"
    yield table.words("cut", "cut", cut, f"{ranks} ranks: tensor x pipeline x data-parallel copies")
    shards = min(model.shards or copies, copies)
    for name, why in STATES.items():
        shared = f" / {shards} (zero: {model.zero})" if model.zero >= _SHARED[name] and shards > 1 else ""
        yield table.size(name, name, getattr(need, name), f"{why} / {model.model_ranks}{shared}; arXiv 1910.02054")
    if need.gathered:
        yield table.size("gathered", "one layer, gathered", need.gathered, "zero: 3 brings its weights together")
    held = pipelines.held(pipelines.Schedule(model.schedule), model.pipeline, model.micro_batches)
    passes = f", {_batches(held)} at a time ({model.schedule})" if model.pipeline > 1 else ""
    why = f"recompute: {model.recompute}{passes}; arXiv 2205.05198, without sequence parallel"
    yield table.size("activations", "activations", need.activations, why)
    why = f"logits, workspaces and fragments are not counted: {memory.RESERVE:.0%} of a GPU is left for them"
    yield table.size("total", "in all", need.total, why)


def _step(model: ModelSection, ranks: int) -> Iterator[Row]:
    if model.pipeline > 1:
        idle = pipelines.bubble_share(model.pipeline, model.micro_batches)
        why = f"(p - 1)/(m + p - 1) for {model.pipeline} stages and {_batches(model.micro_batches)}; arXiv 2104.04473"
        yield table.share("bubble", "bubble of the pipeline", idle, why)
    link, copies = steptime.link_of(model), ranks // model.model_ranks
    if link is not None and copies > 1:
        own = model.parameters * model.gradient_bytes / model.model_ranks
        sent = f"{short_size(round(own))} of gradients among {copies} copies, by plan.model.bandwidth and latency"
        for each in Algorithm:
            key, why = (
                f"all_reduce_{each.name.lower()}",
                f"{sent}; IJHPCA 19(1)" if each is Algorithm.RING else "the same",
            )
            yield table.seconds(key, f"all-reduce, {each}", all_reduce_s(each, own, copies, link), why)
    step = steptime.step_of(model, ranks)
    if step is None:
        yield table.seconds("step", "a step", None, "give plan.model.gpu_tflops and plan.model.bandwidth")
        return
    why = "(6 P + 12 L h s) operations a token by plan.model.gpu_tflops; arXiv 2204.02311"
    yield table.seconds("compute", "arithmetic", step.compute_s, why)
    yield table.seconds("reduce", "gradients", step.reduce_s, f"{step.by}; nothing of it is taken to overlap")
    yield table.seconds("step", "a step", step.total_s, "with the bubble; messages inside a copy are not counted")


def _fit(inputs: Inputs, model: ModelSection, groups: Sequence[NodeGroup] | str) -> Iterator[Row]:
    known = groups or "sinfo names no partition that is up"
    if isinstance(known, str):
        yield table.words("nodes", "nodes", "unknown", known)
        return
    fits = [packing.fit(model, group, inputs.config.resources.ranks_per_node) for group in known]
    for number, each in enumerate(fits):
        shown = "does not" if each.fewest is None else f"{count(each.fewest, 'node')} or more"
        room = "" if each.gpu_bytes is None else f" of {each.gpu_bytes * (1 - memory.RESERVE) / packing.GIB:.0f} GiB"
        why = f"{each.reason}{room if each.fewest else ''}; {each.group.idle} of {each.group.total} are idle"
        yield Row(key=f"kind_{number}", label=_label(each.group), value=each.fewest, shown=shown, because=why)
    for rule in packing.Rule:
        best = packing.chosen(rule, fits, inputs.nodes)
        key, label = rule.name.lower(), str(rule)
        if best is None:
            yield table.words(key, label, "none", f"no kind of nodes has {inputs.nodes} idle ones on which it fits")
        else:
            yield table.words(key, label, _label(best.group), WHY[rule])


def _label(group: NodeGroup) -> str:
    """A site's names are the site's: shown, never obeyed, and not wider than a column."""
    return visible(group.label)[:_WIDEST]


def _batches(number: int) -> str:
    return f"{number} micro-batch" if number == 1 else f"{number} micro-batches"
