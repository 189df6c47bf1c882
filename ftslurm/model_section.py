"""The part of a configuration that describes the model for `ftslurm plan`: how large it is, and how it is cut.

Nothing here changes a run. The words are those of Megatron-LM and of ZeRO: a rank holds 1/(tensor x pipeline) of the
model, and the data-parallel copies are what is left of the ranks: ranks / (tensor x pipeline).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from ftslurm.fields import Count, Rate, duration, kind_of, shown
from ftslurm.quantities import SIZE_PATTERN, format_size, parse_size
from ftslurm.sections import Section

_WORTH = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([KMBT]?)"
MOST_PARAMETERS = 10**15


def _parameters(value: object) -> int:
    """`7B`, `350M`, `1.3B`, or the number itself; decimal units, as models are named."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(_NUMBER, text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected a number of parameters such as 350M, 7B or 1.8T, got {shown(value)}")
    count = round(float(match[1]) * _WORTH[match[2]])
    if not 1 <= count <= MOST_PARAMETERS:
        raise ValueError("must be between 1 and 1000T parameters")
    return count


def words_of_parameters(count: int) -> str:
    """Write a number of parameters with the largest unit that keeps it whole: 7000000000 is `7B`."""
    for unit, worth in reversed(_WORTH.items()):
        if count % worth == 0:
            return f"{count // worth}{unit}"
    return str(count)


def _size(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = getattr(value, "text", value)
        raise ValueError(f"a size needs a unit; write {number}G")  # noqa: TRY004 - pydantic collects ValueErrors only
    if not isinstance(value, str):
        raise ValueError(f"expected text, got {kind_of(value)}")  # noqa: TRY004 - as above
    return parse_size(value)


Parameters: TypeAlias = Annotated[
    int,
    BeforeValidator(_parameters),
    PlainSerializer(words_of_parameters, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_NUMBER}$"}]}),
]
Size: TypeAlias = Annotated[
    int | None,
    BeforeValidator(_size),
    PlainSerializer(lambda size: None if size is None else format_size(size), return_type=str | None),
    WithJsonSchema({"type": ["string", "null"], "pattern": SIZE_PATTERN}),
]
Bytes: TypeAlias = Annotated[float, Field(ge=0, le=64, strict=False)]


class ModelSection(Section):
    """The model that is trained, and how ranks share it. `ftslurm plan` says from it what memory and time it takes."""

    parameters: Parameters = Field(description="How many the model has, as in 350M, 7B or 1.8T")
    layers: Count = Field(description="Transformer layers")
    hidden: Count = Field(description="Width of a layer")
    heads: Count = Field(description="Attention heads of a layer")
    sequence: Count = Field(description="Tokens of a sample")
    micro_batch: Count = Field(1, description="Samples that a rank computes at a time")
    micro_batches: Count = Field(
        1, description="Micro-batches of a step in each data-parallel copy; too few leave a pipeline idle"
    )
    weight_bytes: Bytes = Field(2.0, description="Bytes of a parameter in the forward pass: 2 for bf16 and fp16")
    gradient_bytes: Bytes = Field(2.0, description="Bytes of a parameter's gradient; 4 where they are summed in fp32")
    optimizer_bytes: Bytes = Field(
        12.0, description="Bytes of the optimizer's state for a parameter: 12 for Adam with an fp32 copy of the weights"
    )
    tensor: Count = Field(1, description="Ranks that share every layer (tensor parallel)")
    pipeline: Count = Field(1, description="Stages that share the layers one after the other (pipeline parallel)")
    schedule: Literal["1f1b", "gpipe"] = Field(
        "1f1b", description="Order of a pipeline's micro-batches; gpipe holds the activations of all of them"
    )
    zero: Literal[0, 1, 2, 3] = Field(
        0,
        description="What the data-parallel copies share: 1 the optimizer's state, 2 also gradients, 3 also parameters"
        " (FSDP's full shard)",
    )
    shards: Count | None = Field(
        None, description="Ranks that share with zero, where not all copies do (FSDP's hybrid shard)"
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none", description="Activations that are computed a second time: selective those of attention, full all"
    )
    gpu_memory: Size = Field(
        None, description="Memory of a GPU, as in 80G; left out: what Slurm's names of GPUs tell, else unknown"
    )
    gpu_tflops: Annotated[float, Field(gt=0, le=1e6, strict=False)] | None = Field(
        None, description="TFLOP/s that a GPU reaches in this program, not its peak; left out: no step time is said"
    )
    bandwidth: Rate = Field(
        None, description="What a rank sends a second in a collective, as in 25G/s; left out: no step time is said"
    )
    latency: Annotated[float, *duration(0, 1)] = Field(
        0.00001, description="Time of one message, however small; 0.01ms is a fast network's"
    )

    @property
    def model_ranks(self) -> int:
        """The ranks of one data-parallel copy."""
        return self.tensor * self.pipeline

    @model_validator(mode="after")
    def _cuts(self) -> ModelSection:
        if self.pipeline > self.layers:
            raise ValueError(f"pipeline: {self.pipeline} stages cannot share {self.layers} layers")
        if self.heads % self.tensor:
            raise ValueError(f"tensor: {self.tensor} ranks cannot share {self.heads} heads evenly")
        if self.gpu_memory == 0:
            raise ValueError("gpu_memory: a GPU has some")
        if self.hidden % self.heads:
            raise ValueError(f"hidden: {self.hidden} is no multiple of {self.heads} heads")
        if self.shards is not None and self.zero == 0:
            raise ValueError("shards says how many ranks share with zero; zero is 0")
        return self
