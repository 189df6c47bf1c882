from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.about import About, SaveKind, split_metrics
from ftslurm.core.manifest import CHUNK_BYTES, DIGEST_CHARS, Commit
from ftslurm.core.rankindex import DTYPES, Encoding, Entry, Kind, RankIndex, aligned, check_objects
from ftslurm.core.tiling import Box, flaw
from ftslurm.core.wholeness import merge
from ftslurm.errors import DataDamaged, UsageError
from tests.core.test_manifest import commit, manifest

DIGEST = "0123456789abcdef" * 2
GENERATION = "000000005-0001"
BASE = "000000004-0001"


def entry(key: str = "w", box: Box | None = None, shape: tuple[int, ...] = (4, 3), **changes: Any) -> Entry:
    """Floats, all of a tensor or a box of it."""
    box = box or Box((0,) * len(shape), shape)
    length = box.volume * DTYPES[changes.get("dtype", "float32")]
    fields = {
        "key": key, "kind": Kind.SHARDED, "dtype": "float32", "shape": shape, "offsets": box.offsets,
        "sizes": box.sizes, "offset": 0, "stored": length, "length": length, "digest": DIGEST,
    }  # fmt: skip
    return Entry(**fields | changes)


def index(*entries: Entry, rank: int = 0, world_size: int = 1, **changes: Any) -> RankIndex:
    """One rank's index; the entries are placed one after the other."""
    placed: list[Entry] = []
    end = 0
    for each in entries:
        placed.append(each if each.is_reference else replace(each, offset=end))
        end += aligned(each.stored)
    chunks = DIGEST * -(-end // CHUNK_BYTES)
    fields = {"run_id": "run", "generation": GENERATION, "host": "n1", "size": end, "chunks": chunks}
    return RankIndex(rank=rank, world_size=world_size, entries=tuple(placed), **fields | changes)


def altered(written: RankIndex, change: dict[str, Any], entry_change: dict[str, Any] | None = None) -> bytes:
    """The bytes of an index in which some fields, and some of its first entry, are others."""
    record = json.loads(written.to_bytes()) | change
    if entry_change:
        record["entries"][0] |= entry_change
    return json.dumps(record).encode()


KEYS = st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def indexes(draw: st.DrawFn) -> RankIndex:
    """Any index that a rank can write."""
    entries = []
    for key in sorted(draw(st.sets(KEYS, max_size=5))):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        shape = draw(st.lists(st.integers(0, 5), max_size=4).map(tuple))
        offsets = tuple(draw(st.integers(0, extent)) for extent in shape)
        box = Box(offsets, tuple(draw(st.integers(0, n - a)) for a, n in zip(offsets, shape, strict=True)))
        made = entry(key, box, shape, dtype=dtype)
        if made.length and draw(st.booleans()):
            made = replace(made, base=BASE, stored=0, offset=4096 * draw(st.integers(0, 9)))
        elif made.length > 1 and draw(st.booleans()):
            made = replace(made, encoding=Encoding.ZSTD, stored=draw(st.integers(1, made.length - 1)))
        entries.append(made)
    about = About(reason=draw(KEYS), epoch=draw(st.none() | FINITE), metrics=draw(st.dictionaries(KEYS, FINITE)))
    objects = draw(st.dictionaries(st.text(max_size=9), VALUES, max_size=4))
    return index(*entries, about=about, objects=objects, versions={"torch": "2.13"})


@given(indexes())
def test_an_index_survives_json(written: RankIndex) -> None:
    """What is written is what is read."""
    assert RankIndex.from_bytes(written.to_bytes()) == written


@given(st.binary(max_size=200) | st.recursive(VALUES, st.lists).map(lambda v: json.dumps(v).encode()))
def test_what_is_no_index_is_refused(data: bytes) -> None:
    """Any other bytes end in one kind of error."""
    with pytest.raises(DataDamaged):
        RankIndex.from_bytes(data)


@given(indexes(), st.data())
def test_an_index_with_one_other_value_is_refused_or_means_what_it_says(
    written: RankIndex, data: st.DataObject
) -> None:
    """A changed value is found, or gives an index that could have been written: never another error."""
    record = json.loads(written.to_bytes())
    target = record
    if record["entries"] and data.draw(st.booleans()):
        target = data.draw(st.sampled_from(record["entries"]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(VALUES | st.just(1 << 62) | st.just(-1))
    try:
        read = RankIndex.from_bytes(json.dumps(record).encode())
    except DataDamaged as error:
        assert "\n" not in str(error)  # noqa: PT017 - not raising is right too
    else:
        assert RankIndex.from_bytes(read.to_bytes()) == read


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other/1"}, "format"),
        ({"chunk_bytes": 1}, "chunk size"),
        ({"generation": "../../etc"}, "not the name of a generation"),
        ({"run_id": "../run"}, "not a relative path"),
        ({"host": "../n1"}, "node="),
        ({"rank": 1}, "rank in a world of 1"),
        ({"rank": -1}, "rank in a world"),
        ({"world_size": 1 << 60}, "world_size"),
        ({"size": 1 << 62}, "size of"),
        ({"size": 8192}, "end at 4096, the data file at 8192"),
        ({"chunks": ""}, "bytes but 0 chunks"),
        ({"entries": {}}, "not a list"),
        ({"objects": []}, "not a JSON object"),
        ({"objects": {"a": math.nan}}, "NaN is not a number"),
        ({"about": None}, "not a JSON object"),
        ({"versions": {"torch": 2}}, "not one line"),
        ({"extra": 1}, "unknown keys: 'extra'"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_refused_with_the_reason(change: dict[str, Any], said: str) -> None:
    """Names that leave the folder, absurd sizes and numbers that are none are found, and named in one line."""
    with pytest.raises(DataDamaged, match=said) as caught:
        RankIndex.from_bytes(altered(index(entry()), change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "a\nb"}, "not one line"),
        ({"key": 5}, "not one line"),
        ({"key": "x" * 1001}, "not one line"),
        ({"key": "\ud800"}, "not one line"),
        ({"kind": "object"}, "kind of 'w'"),
        ({"kind": ["rank"]}, "kind of 'w'"),
        ({"dtype": "object"}, "unknown type 'object'"),
        ({"dtype": []}, "unknown type"),
        ({"shape": [4, -3]}, "shape of 'w'"),
        ({"shape": [4, 3.0]}, "shape of 'w'"),
        ({"shape": [1] * 65}, "65 dimensions"),
        ({"shape": [4, 1 << 59], "kind": "sharded"}, "cannot have 48 bytes"),
        ({"offsets": [1, 0]}, "no box of a tensor"),
        ({"offsets": [0]}, "no box of a tensor"),
        ({"sizes": [4, 2]}, "cannot have 48 bytes"),
        ({"length": 47}, "cannot have 47 bytes"),
        ({"length": True}, "length of"),
        ({"offset": 4}, "no multiple of 4096"),
        ({"offset": 4096}, "where 0 is the next free place"),
        ({"offset": -4096}, "offset of 'w'"),
        ({"stored": 40}, "40 stored as raw"),
        ({"stored": 48, "encoding": "zstd"}, "48 stored as zstd"),
        ({"stored": 0, "encoding": "zstd"}, "0 stored as zstd"),
        ({"stored": 40, "encoding": "xor+zstd"}, "40 stored as xor"),
        ({"encoding": "pickle"}, "encoding of 'w'"),
        ({"digest": "x"}, "digest of 'w'"),
        ({"digest": None}, "digest of 'w'"),
        ({"base": "/etc"}, "not the name of a generation"),
        ({"base": None}, "not the name of a generation"),
        ({"base": BASE}, "48 stored as raw"),
        ({"base": GENERATION, "stored": 0}, "refers to its own generation"),
        ({"kind": "replicated", "shape": [8, 3]}, "not the whole"),
        ({"path": "x"}, "unknown keys: 'path'"),
    ],
)
def test_a_wrong_entry_is_refused_with_the_reason(change: dict[str, Any], said: str) -> None:
    """Places that overlap or lie between borders, sizes that disagree, unknown encodings: each is named in one line."""
    with pytest.raises(DataDamaged, match=said) as caught:
        RankIndex.from_bytes(altered(index(entry()), {}, change))
    assert "\n" not in str(caught.value)


def test_entries_that_overlap_or_are_out_of_order_are_refused() -> None:
    """No two entries share a byte, and there is one order."""
    one, two = entry("a"), entry("b")
    record = json.loads(index(one, two).to_bytes())
    record["entries"][1]["offset"] = 0
    with pytest.raises(DataDamaged, match="'b' lies at 0, where 4096"):
        RankIndex.from_bytes(json.dumps(record).encode())
    for entries in ((two, one), (one, one)):
        with pytest.raises(DataDamaged, match="listed twice, or not in order"):
            RankIndex.from_bytes(index(*entries).to_bytes())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.inf, "holds inf"), ({"a": [math.nan]}, "holds nan"), ((1, 2), "holds a tuple"), ({1: 2}, "no texts"),
        (b"x", "holds a bytes"), (object(), "holds a object"), ({1}, "holds a set"),
    ],
)  # fmt: skip
def test_objects_that_json_would_change_are_refused_when_saving(value: object, said: str) -> None:
    """The state comes back as it was, or the save says which value could not."""
    with pytest.raises(UsageError, match=f"'x' {said}|'x' has names"):
        check_objects({"x": value})
    with pytest.raises(UsageError, match="'x'"):
        index(objects={"x": value}).to_bytes()


def test_a_bomb_of_brackets_is_refused() -> None:
    """Nesting has an end, when writing and when reading."""
    deep: list[Any] = []
    for _ in range(101):
        deep = [deep]
    with pytest.raises(UsageError, match="deep"):
        check_objects({"x": deep})
    with pytest.raises(DataDamaged):
        RankIndex.from_bytes(b'{"objects":' + b"[" * 100_000)


# ------------------------------------------------------------------------------------------------------------ about


def test_a_save_says_what_it_is_about() -> None:
    """Every field survives JSON, and what is not finite is kept apart."""
    finite, odd = split_metrics({"loss": 1, "a": math.nan, "b": math.inf, "c": -math.inf})
    assert (finite, odd) == ({"loss": 1.0}, {"a": "nan", "b": "inf", "c": "-inf"})
    about = About(
        reason="1000 steps", epoch=1.5, samples=7, metrics=finite, odd=odd, kind=SaveKind.DIFF, base=BASE, parent=BASE
    )
    assert About.from_json(json.loads(json.dumps(about.to_json()))) == about
    assert hash(about) == hash(About.from_json(about.to_json()))


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "a\nb"}, {"reason": None}, {"epoch": "1"}, {"epoch": True}, {"epoch": math.inf}, {"samples": -1},
        {"samples": 1.5}, {"metrics": []}, {"metrics": {"loss": "1"}}, {"metrics": {"loss": math.nan}},
        {"metrics": {"a\nb": 1.0}}, {"odd": {"loss": "x"}}, {"kind": "other"}, {"kind": []}, {"kind": "diff"},
        {"base": BASE}, {"base": "../x", "kind": "diff"}, {"parent": 5}, {"parent": ".."}, {"versions": {"torch": 1}},
        {"metrics": {str(n): 0.0 for n in range(1001)}}, {"unknown": 1},
    ],
)  # fmt: skip
def test_a_wrong_record_about_a_save_is_refused(change: dict[str, Any]) -> None:
    """Whatever this program cannot have written is refused."""
    with pytest.raises(DataDamaged):
        About.from_json(About().to_json() | change)


def test_a_commit_carries_what_the_save_was_about() -> None:
    """It is part of what the seal covers; without it, as in files mode, a commit reads as it always did."""
    plain = commit(manifest("n1"))
    assert "about" not in plain.body()
    told = replace(plain, about=About(reason="epoch", metrics={"loss": 0.5}))
    assert Commit.from_json(json.loads(told.body_bytes())) == told
    assert Commit.from_json(json.loads(plain.body_bytes())) == plain
    assert told.body_bytes() != plain.body_bytes()
    with pytest.raises(DataDamaged):
        Commit.from_json(plain.body() | {"about": None})


# ------------------------------------------------------------------------------------------------------- wholeness


def cut(shape: tuple[int, ...], axis: int, places: list[int]) -> list[Box]:
    """The shape, cut along an axis at these places."""
    borders = [0, *sorted(places), shape[axis]]
    return [
        Box(
            tuple(start if at == axis else 0 for at in range(len(shape))),
            tuple(end - start if at == axis else size for at, size in enumerate(shape)),
        )
        for start, end in itertools.pairwise(borders)
    ]


@given(st.data())
def test_any_way_to_cut_a_tensor_tiles_it(data: st.DataObject) -> None:
    """Boxes that come from cutting again and again are whole; with one of them gone or twice they are not."""
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple))
    boxes = [Box((0,) * len(shape), shape)]
    for _ in range(data.draw(st.integers(0, 4))):
        box = boxes.pop(data.draw(st.integers(0, len(boxes) - 1)))
        axis = data.draw(st.integers(0, len(shape) - 1))
        for part in cut(box.sizes, axis, [data.draw(st.integers(0, box.sizes[axis]))]):
            corner = tuple(a + b for a, b in zip(box.offsets, part.offsets, strict=True))
            boxes = [*boxes, Box(corner, part.sizes)]
    assert not flaw(data.draw(st.permutations(boxes)), shape)
    one = data.draw(st.sampled_from([box for box in boxes if box.volume]))
    assert "overlap" in flaw([*boxes, one], shape)
    boxes.remove(one)
    assert "elements are there" in flaw(boxes, shape)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=6))
def test_tiling_agrees_with_counting(places: list[tuple[int, int, int, int]]) -> None:
    """Exact tiling means: every element is counted once."""
    boxes = [box for a, b, n, m in places if (box := Box((a, b), (n, m))).within((4, 4))]
    counts = [0] * 16
    for box in boxes:
        for row in range(box.offsets[0], box.offsets[0] + box.sizes[0]):
            for column in range(box.offsets[1], box.offsets[1] + box.sizes[1]):
                counts[4 * row + column] += 1
    assert (not flaw(boxes, (4, 4))) == (counts == [1] * 16)


def test_the_indexes_of_all_ranks_make_a_whole() -> None:
    """Shards are put together, a common tensor is found with the rank that wrote it, each rank keeps its own."""
    top, bottom = cut((4, 3), 0, [1])
    own = entry("rng", shape=(2,), kind=Kind.RANK)
    common = entry("b", shape=(), kind=Kind.REPLICATED)
    empty = entry("z", Box((0,), (0,)), (0,))
    first = index(own, entry("w", top), rank=0, world_size=2, objects={"step": 5})
    second = index(common, own, entry("w", bottom), empty, rank=1, world_size=2)
    whole = merge([second, first])
    assert set(whole.tensors) == {"b", "w", "z"}
    assert [rank for rank, _ in whole.tensors["w"].pieces] == [0, 1]
    assert [list(own) for own in whole.own] == [["rng"], ["rng"]]
    assert (whole.objects(), whole.references(), whole.world_size) == ({"step": 5}, frozenset(), 2)


TOP, BOTTOM = cut((4, 3), 0, [2])


@pytest.mark.parametrize(
    ("one", "other", "changes", "said"),
    [
        (entry("w", TOP), entry("w", TOP), {}, "overlap"),
        (entry("w", TOP), entry("w", cut((4, 3), 0, [3])[1]), {}, "9 of 12 elements are there"),
        (entry("w", TOP), entry("w", cut((4, 3), 0, [1])[1]), {}, "overlap"),
        (entry("w", TOP), entry("x", BOTTOM), {}, "6 of 12 elements are there"),
        (entry("w", TOP), entry("w", BOTTOM, dtype="int32"), {}, "int32"),
        (entry("w", TOP), entry("w", TOP, (4, 4)), {}, r"\[4, 4\] on rank 1"),
        (entry(kind=Kind.REPLICATED), entry(kind=Kind.REPLICATED), {}, "was written by the ranks"),
        (entry(kind=Kind.REPLICATED), entry(), {}, "sharded float32"),
        (entry(kind=Kind.RANK), entry(), {}, "each rank's own and a common tensor"),
        (entry("w", TOP), entry("w", BOTTOM), {"rank": 0}, "here are those of"),
        (entry("w", TOP), entry("w", BOTTOM), {"run_id": "other"}, "rank 1 wrote"),
        (entry("w", TOP), entry("w", BOTTOM), {"generation": BASE}, "rank 1 wrote"),
        (entry("w", TOP), entry("w", BOTTOM), {"world_size": 3}, "rank 1 wrote"),
    ],
)
def test_indexes_that_make_no_whole_are_refused(one: Entry, other: Entry, changes: dict[str, Any], said: str) -> None:
    """A gap, an overlap, a rank of another save: nothing is put together from parts that do not fit."""
    fields = {"rank": 1, "world_size": 2} | changes
    with pytest.raises(DataDamaged, match=said):
        merge([index(one, world_size=2), index(other, **fields)])


def test_a_missing_rank_is_no_whole() -> None:
    """Every rank of the world has to be there."""
    with pytest.raises(DataDamaged, match="written by 2 ranks"):
        merge([index(world_size=2)])
    with pytest.raises(DataDamaged, match="no rank"):
        merge([])


def test_chunks_of_the_data_file_are_as_a_manifest_lists_them() -> None:
    """The agent takes the file's entry from the index and reads nothing again."""
    written = index(entry())
    assert (written.data_file.name, written.index_name, written.data_file.rank) == ("00000.bin", "00000.json", 0)
    assert len(written.data_file.chunks) == DIGEST_CHARS
