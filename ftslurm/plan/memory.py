"""How much memory of its GPU a rank needs for a transformer: its state, and the activations of the passes in flight.

State, after ZeRO (Rajbhandari et al., arXiv 1910.02054, section 3): every parameter has weight, gradient and optimizer
state, with Adam in mixed precision 2 + 2 + 12 bytes. A rank holds 1/(tensor x pipeline) of them; of what ZeRO shares
(1: optimizer, 2: gradients as well, 3: weights as well, which is FSDP's full shard) only its shard. Stage 3 gathers the
weights of a layer, and makes its gradient, before they are shared again: one layer is counted on top.

Activations, after Korthikanti et al. (arXiv 2205.05198, section 4), in bytes of a layer with 2-byte numbers, for a
micro-batch b of sequence s, width h, a heads, tensor parallel over t without sequence parallel:

    none         s b h (10 + 24/t + 5 a s/(h t))
    selective    s b h (10 + 24/t)                    attention's own are not kept (nor does FlashAttention keep them)
    full         2 s b h, and one layer of *none* while it is computed again

The first stage of a pipeline has the most: the layers of one stage, for as many micro-batches as it holds. Embeddings,
their logits, workspaces, fragmentation and the runtime's own memory are in none of these: that is what RESERVE is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftslurm.plan.pipelines import Schedule, held

if TYPE_CHECKING:
    from ftslurm.model_section import ModelSection

RESERVE = 0.1
"""The share of a GPU that is left for all that is not counted. Our assumption: nobody publishes it."""
_HALF = 2.0
"""The bytes of a number for which the formulas of the activations stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The bytes that a rank of the fullest stage needs, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def of_rank(model: ModelSection, copies: int) -> Memory:
    """Return what a rank needs where so many data-parallel copies of the model are trained.

    Raises:
        ValueError: no copies.
    """
    if copies < 1:
        raise ValueError(f"{copies} copies of a model need no memory")
    own = model.parameters / model.model_ranks
    shards = min(model.shards or copies, copies)
    weights, gradients, optimizer = (
        own * each / (shards if model.zero >= stage else 1)
        for each, stage in ((model.weight_bytes, 3), (model.gradient_bytes, 2), (model.optimizer_bytes, 1))
    )
    layer = model.parameters / model.layers / model.tensor
    gathered = layer * (model.weight_bytes + model.gradient_bytes) if model.zero == 3 else 0.0
    return Memory(
        weights=weights, gradients=gradients, optimizer=optimizer, gathered=gathered, activations=activations(model)
    )


def activations(model: ModelSection) -> float:
    """Return the bytes of activations on a rank of the first stage."""
    unit = model.sequence * model.micro_batch * model.hidden * model.weight_bytes / _HALF
    kept = 10 + 24 / model.tensor
    attention = 5 * model.heads * model.sequence / (model.hidden * model.tensor)
    layer = {"none": kept + attention, "selective": kept, "full": 2.0}[model.recompute]
    again = kept + attention if model.recompute == "full" else 0.0
    layers = -(-model.layers // model.pipeline)
    passes = held(Schedule(model.schedule), model.pipeline, model.micro_batches) if model.pipeline > 1 else 1
    return unit * (layer * layers * passes + again)


def fits(model: ModelSection, copies: int, gpu_bytes: float) -> bool:
    """Tell whether a rank's memory is in a GPU's, without the reserve."""
    return of_rank(model, copies).total <= gpu_bytes * (1 - RESERVE)


def fewest_copies(model: ModelSection, gpu_bytes: float, most: int) -> int | None:
    """Return the fewest copies, up to `most`, with which a rank's memory is in a GPU; None: not even with `most`.

    More copies never need more memory on a rank: ZeRO's shards get smaller, and nothing else changes.
    """
    if most < 1 or not fits(model, most, gpu_bytes):
        return None
    least, enough = 0, most
    while enough - least > 1:
        middle = (least + enough) // 2
        least, enough = (least, middle) if fits(model, middle, gpu_bytes) else (middle, enough)
    return enough
