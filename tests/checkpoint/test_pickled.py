from __future__ import annotations

import argparse
import collections
import os
import pickle
import random
from pathlib import Path

import pytest

from ftslurm.checkpoint.frameworks import pickled
from ftslurm.checkpoint.frameworks.pickled import Thing
from ftslurm.errors import DataDamaged
from tests.checkpoint.frameworktrees import plant
from tests.lab.longer import long_test

VALUES = [
    None,
    True,
    -1,
    300,
    70_000,
    -(2**40),
    2**3000,
    0.5,
    "text",
    "é" * 300,
    [1, [2, []]],
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {"a": {"b": [1, 2]}, 3: None, None: "none"},
    collections.OrderedDict(a=1, b=2),
]


class Calls:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_data_comes_back(protocol: int) -> None:
    """Numbers, texts and containers are what they were, in every binary protocol."""
    values = VALUES if protocol == 2 else [*VALUES, b"bytes", b"x" * 300, {b"c": 1.5}]
    assert pickled.read(pickle.dumps(values, protocol), "x") == values


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_are_names_with_parts(protocol: int) -> None:
    """Of an object its class and attributes are told; no such object is made."""
    shared = argparse.Namespace(size=2, deep={"a": [1]})
    one, two = pickled.read(pickle.dumps([shared, shared], protocol), "x")
    assert one is two
    assert isinstance(one, Thing)
    assert (one.name, one.part("size"), one.part("deep"), one.part("none")) == (
        "argparse.Namespace", 2, {"a": [1]}, None,
    )  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    """What unpickling would call is written down, or refused where only some names are allowed."""
    data = pickle.dumps({"a": Calls(tmp_path / "made")}, protocol)
    assert isinstance(pickled.read(data, "x")["a"], Thing)
    with pytest.raises(DataDamaged, match="mkdir' in it, which has no business there"):
        pickled.read(data, "x", allowed=lambda name: name.startswith("torch."))
    assert not (tmp_path / "made").exists()
    pickle.loads(data)
    assert (tmp_path / "made").exists()


def test_getattr_is_no_way_around() -> None:
    """An attribute of what is allowed must be allowed by its own name."""
    chain = b"cbuiltins\ngetattr\n(ctorch\nSize\nX\x03\x00\x00\x00hubtR."
    assert isinstance(pickled.read(chain, "x"), Thing)
    with pytest.raises(DataDamaged, match=r"'torch\.Size\.hub'"):
        pickled.read(chain, "x", allowed=lambda name: name in {"builtins.getattr", "torch.Size"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x04",
        b"N",
        b"NN.",
        b"N.N",
        b"N.\n",
        b"t.",
        b"a.",
        b"Na.",
        b"s.",
        b"h\x07.",
        b"q\x00.",
        b"\x85.",
        b"NR.",
        b"NN\x81.",
        b"K\x01K\x02\x93.",
        b"cbuiltins.getattr",
        b"X\xff\xff\xff\xff.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x8b\xff\xff\xff\x7f.",
        b"C\xff.",
        b"X\x02\x00\x00\x00\xff\xfe.",
        b"I1\n.",
        b"(dp0\n.",
        b"\x82\x01.",
        b"(K\x01ud.",
        b"}(K\x01u.",
        b"cbuiltins\ngetattr\n)R.",
    ],
)
def test_no_pickle_is_refused(data: bytes) -> None:
    """What is cut off, senseless, or of the old text form is damage, never another error."""
    with pytest.raises(DataDamaged, match=r"^x is "):
        pickled.read(data, "x")


def test_a_large_index_of_the_memo_costs_nothing() -> None:
    """The C unpickler would reserve 32 GB here: one flipped bit is enough."""
    assert pickled.read(b"Nr\xff\xff\xff\x7f.", "x") is None


def test_keys_that_take_for_ever_to_hash() -> None:
    """A tuple of the same tuple twice, 200 deep, is no problem as a key."""
    data = b")" + b"2\x86" * 200 + b"."
    assert isinstance(pickled.read(data, "x"), tuple)
    (key,) = pickled.read(b"})" + b"2\x86" * 200 + b"Ns.", "x")
    assert isinstance(key, Thing)


def test_a_deep_nest_is_read_without_recursion() -> None:
    """A hundred thousand lists in each other are read; Python's own recursion limit is a thousand."""
    found = pickled.read(b"]" * 100_000 + b"a" * 99_999 + b".", "x")
    depth = 1
    while found:
        (found,) = found
        depth += 1
    assert depth == 100_000


@long_test("sixteen million values are read first")
def test_too_many_values_are_refused() -> None:
    """Each value takes more memory than its opcode takes in the file."""
    with pytest.raises(DataDamaged, match="more than 16000000 values"):
        pickled.read(b"N0" * 8_000_001 + b"N.", "x")


def test_no_damage_is_another_error(tmp_path: Path) -> None:
    """Whatever bits flip or bytes are lost in a real metadata file: it is read, or refused as damaged."""
    plant("dcp", tmp_path)
    whole = (tmp_path / "step-20/.metadata").read_bytes()
    chance = random.Random(1)
    refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        del data[chance.choice([len(data), chance.randrange(len(data))]) :]
        try:
            pickled.read(bytes(data), "x")
        except DataDamaged:
            refused += 1
    assert refused > 1000


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    """A pickle says where it ends."""
    plant("dcp", tmp_path)
    whole = (tmp_path / "step-20/.metadata").read_bytes()
    for size in range(len(whole)):
        with pytest.raises(DataDamaged):
            pickled.read(whole[:size], "x")
