"""Models of the literature, as sections of a configuration."""

from __future__ import annotations

from ftslurm.model_section import ModelSection

GPT3 = {"parameters": "175B", "layers": 96, "hidden": 12288, "heads": 96, "sequence": 2048}
ZERO_7B = {"parameters": "7.5B", "layers": 36, "hidden": 4096, "heads": 32, "sequence": 1024}


def model(base=GPT3, **changed):
    """A section with these values."""
    return ModelSection.model_validate({**base, **changed})
