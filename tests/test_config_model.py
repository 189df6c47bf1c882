from __future__ import annotations

import pytest

from ftslurm.config import parse
from ftslurm.errors import ConfigError
from ftslurm.model_section import words_of_parameters

SMALL = "name: x\ncommand: [a]\nresources: {nodes: 2}\n"
SHAPE = {"parameters": "7B", "layers": 32, "hidden": 4096, "heads": 32, "sequence": 4096}


def model(**changed):
    """The section of a configuration with these values."""
    values = ", ".join(f"{key}: {value}" for key, value in {**SHAPE, **changed}.items() if value is not None)
    return parse(f"{SMALL}plan:\n  model: {{{values}}}\n", "x.yaml")


@pytest.mark.parametrize(
    ("written", "count"),
    [("7B", 7 * 10**9), ("1.3B", 13 * 10**8), ("350M", 35 * 10**7), ("1.8T", 18 * 10**11), (125, 125), ("12K", 12_000)],
)
def test_numbers_of_parameters(written, count):
    """As models are named, in decimal units; written back so that they are read as the same."""
    found = model(parameters=written)
    assert found.plan.model.parameters == count
    assert model(parameters=words_of_parameters(count)) == found
    assert found.resolved()["plan"]["model"]["parameters"] == words_of_parameters(count)


def test_a_section_is_read_again_as_it_was():
    """Sizes, rates and times with their units; ranks of a copy are the cuts' product."""
    found = model(gpu_memory="80G", bandwidth="25G/s", latency="5ms", tensor=8, pipeline=4, zero=3, shards=8).plan.model
    assert (found.gpu_memory, found.bandwidth, found.latency, found.model_ranks) == (80 * 2**30, 25 * 2**30, 0.005, 32)
    plain = found.model_dump(mode="json")
    assert type(found).model_validate({key: value for key, value in plain.items() if value is not None}) == found


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"parameters": "seven"}, "expected a number of parameters such as 350M, 7B or 1.8T"),
        ({"parameters": "7GB"}, "expected a number of parameters"),
        ({"parameters": "-7B"}, "expected a number of parameters"),
        ({"parameters": "true"}, "expected a number of parameters"),
        ({"parameters": 0}, "between 1 and 1000T"),
        ({"parameters": "1001T"}, "between 1 and 1000T"),
        ({"layers": None}, "layers"),
        ({"layers": 0}, "layers"),
        ({"pipeline": 33}, "33 stages cannot share 32 layers"),
        ({"tensor": 5}, "5 ranks cannot share 32 heads evenly"),
        ({"hidden": 100}, "100 is no multiple of 32 heads"),
        ({"shards": 8}, "shards says how many ranks share with zero; zero is 0"),
        ({"zero": 4}, "zero"),
        ({"gpu_memory": 80}, "a size needs a unit; write 80G"),
        ({"gpu_memory": "80GB"}, "binary, as Slurm counts"),
        ({"gpu_memory": "0G"}, "a GPU has some"),
        ({"gpu_memory": "[80]"}, "expected text"),
        ({"gpu_tflops": -1}, "gpu_tflops"),
        ({"bandwidth": "25"}, "a rate needs a unit"),
        ({"optimizer_bytes": -1}, "optimizer_bytes"),
        ({"optimiser_bytes": 12}, "optimizer_bytes"),
        ({"recompute": "some"}, "recompute"),
    ],
)
def test_mistakes(changed, words):
    """Each is told with its file and line."""
    with pytest.raises(ConfigError, match=r"x\.yaml:5") as caught:
        model(**changed)
    assert words in str(caught.value)
