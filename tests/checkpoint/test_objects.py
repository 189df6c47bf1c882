from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict, deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.checkpoint.objects import ArraySpec, Packer, specs, unpack
from ftslurm.core.strictjson import decode, encode
from ftslurm.errors import DataDamaged, UsageError

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
KEYS = st.text() | st.integers() | st.booleans() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.builds(OrderedDict, st.dictionaries(KEYS, inner))
        | st.builds(deque, st.lists(inner))
        | st.frozensets(PLAIN)
        | st.sets(PLAIN)
    ),
    max_leaves=15,
)


def through(value: object) -> object:
    """Packed, written as JSON, read and unpacked; arrays are handed back as they are."""
    packer = Packer()
    record = decode(encode({"it": packer.pack(value, "it")}), "record")["it"]
    return unpack(record, lambda spec: packer.arrays[spec.key])


def typed(value: object) -> object:
    """A value with the types of all that is in it."""
    if isinstance(value, dict):
        return type(value), [(typed(key), typed(each)) for key, each in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value), [typed(each) for each in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, value))
    return type(value), repr(value)


@given(VALUES)
def test_values_come_back(value: object) -> None:
    """What can be packed comes back equal, with its types."""
    assert typed(through(value)) == typed(value)


def test_more_values() -> None:
    """Floats that JSON has no word for, counters, and a deque's length."""
    found = through({"f": [math.nan, math.inf, -math.inf, -0.0], "c": Counter("abca"), "d": deque([1], maxlen=3)})
    assert [str(each) for each in found["f"]] == ["nan", "inf", "-inf", "-0.0"]
    assert (type(found["c"]), found["c"]["a"]) == (Counter, 2)
    assert found["d"].maxlen == 3


def test_arrays_are_handed_out() -> None:
    """Arrays and tensors, wherever they are, are not written into the JSON; empty ones are described in full."""
    packer = Packer()
    value = {"a": np.arange(3.0), "b": [torch.ones(2, dtype=torch.bfloat16), np.float32(2)], "e": np.zeros((0, 2))}
    record = packer.pack(value, "it")
    assert list(packer.arrays) == ["it/a#0", "it/b/0#1", "it/b/1#2"]
    assert specs(record) == [
        ArraySpec("it/a#0", "numpy", "float64", (3,)),
        ArraySpec("it/b/0#1", "torch", "bfloat16", (2,)),
        ArraySpec("it/b/1#2", "scalar", "float32", ()),
        ArraySpec("", "numpy", "float64", (0, 2)),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"lock": threading.Lock()}, r"it/lock cannot be saved: it is a _thread.lock"),
        ([1, [object()]], "it/1/0 cannot be saved: it is a builtins.object"),
        ({"f": lambda: 0}, "it/f cannot be saved: it is a builtins.function"),
        ({3: {4: print}}, "it/3/1/4/1 cannot be saved"),
        ({"a": np.array(["x"])}, "it/a cannot be saved: its elements are"),
        ({"a": np.array([None])}, "it/a cannot be saved: its elements are object"),
        ({"a": np.arange(3, dtype=">i4")}, "it/a cannot be saved: its elements are >i4"),
        ({"a": torch.eye(2).to_sparse()}, "it/a cannot be saved: it is a distributed or sparse tensor"),
    ],
)
def test_what_cannot_be_kept_is_named(value: object, message: str) -> None:
    """The message says where it is and what."""
    with pytest.raises(UsageError, match=message):
        Packer().pack(value, "it")


def test_endless_values() -> None:
    """A value that contains itself is refused."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(UsageError, match="nested too deeply"):
        Packer().pack(value, "it")


@pytest.mark.parametrize(
    "record",
    [
        {"$pickle": "gASVAAAA"},
        {"$float": "1e3"},
        {"$bytes": "!"},
        {"$set": [[1]]},
        {"$dict": [[1]]},
        {"$dict": [[[], 1]]},
        {"$complex": [1]},
        {"$complex": ["a", 2]},
        {"$deque": [-1, []]},
        {"$tuple": 7},
        {"$array": ["k", "numpy", "float32", [-1]]},
        {"$array": ["k", "numpy", "float32", [2.5]]},
        {"$array": ["k", "numpy", "object", [2]]},
        {"$array": ["k"]},
    ],
)
def test_rubbish_is_refused(record: object) -> None:
    """What `pack` cannot have written is damage, and nothing is executed or made of it."""
    with pytest.raises(DataDamaged):
        unpack([record], lambda spec: None)
