from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core import manifest as m
from ftslurm.core.events import Part
from ftslurm.core.strictjson import decode, encode, plain_name, safe_name
from ftslurm.errors import DataDamaged, UsageError

DIGEST = "0123456789abcdef" * 2


def entry(name: str = "step_1.pt", size: int = 5, rank: int | None = None) -> m.FileEntry:
    """A file with chunks for its size."""
    return m.FileEntry(name=name, size=size, chunks=DIGEST * -(-size // m.CHUNK_BYTES), rank=rank)


def manifest(node: str = "n1", *files: m.FileEntry) -> m.NodeManifest:
    """A node with one file, or these."""
    return m.NodeManifest(run_id="run", generation="000000001-0000", node=node, world_size=2, files=files or (entry(),))


def commit(*manifests: m.NodeManifest) -> m.Commit:
    """A generation of these parts."""
    parts = tuple(each.part(DIGEST) for each in manifests)
    return m.Commit(run_id="run", generation="000000001-0000", world_size=2, epoch=3, parts=parts, at=1.5)


def part(node: str, *ranks: int) -> Part:
    """What an event says of a node that has files of these ranks."""
    return Part(node=node, manifest_digest=DIGEST, files=1, size_bytes=1, ranks=ranks)


NAMES = st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=40)


@given(st.sets(NAMES.filter(lambda name: "/" not in name and name not in {".", ".."}), min_size=1, max_size=5))
def test_a_manifest_survives_json(names: set[str]) -> None:
    """What is written is what is read, for every name that a file can have."""
    files = tuple(entry(name, size, rank) for rank, (size, name) in enumerate(enumerate(sorted(names))))
    written = manifest("n1", *files)
    assert m.NodeManifest.from_bytes(written.to_bytes()) == written


def test_a_commit_survives_json() -> None:
    """The LOCAL record and COMMIT.json can be read back."""
    written = commit(manifest("n1"), manifest("n2"))
    assert m.Commit.from_json(json.loads(written.body_bytes())) == written
    assert (written.step, written.attempt, written.size_bytes) == (1, 0, 10)


def test_the_order_of_parts_does_not_change_a_commit() -> None:
    """Two supervisors that know the same parts in another order write the same bytes."""
    one, other = manifest("n1"), manifest("n2")
    assert commit(one, other).body_bytes() == commit(other, one).body_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other/1"}, "format"),
        ({"chunk_bytes": 4096}, "chunk size"),
        ({"chunk_bytes": True}, "chunk size"),
        ({"generation": "1-0"}, "not the name of a generation"),
        ({"generation": "0000000001-0000"}, "not the name of a generation"),
        ({"generation": "../../etc"}, "not the name of a generation"),
        ({"generation": 5}, "not the name of a generation"),
        ({"node": "../n1"}, "node="),
        ({"node": ""}, "node="),
        ({"run_id": "a/b"}, "run_id="),
        ({"run_id": None}, "not a file name"),
        ({"world_size": -1}, "world_size"),
        ({"world_size": True}, "world_size"),
        ({"world_size": 1.0}, "world_size"),
        ({"files": {}}, "not a list"),
        ({"extra": 1}, "unknown keys: 'extra'"),
        ({"files": [{"name": "a"}]}, "missing or unknown keys"),
        ({"files": ["a"]}, "not a JSON object"),
        ({"files": [entry("a").to_json(), entry("a").to_json()]}, "listed twice"),
        ({"files": [entry("b").to_json(), entry("a").to_json()]}, "not in order"),
        ({"files": [entry("a").to_json(), entry("a/b").to_json()]}, "a file and a folder"),
        ({"files": [entry().to_json() | {"size": 1 << 21}]}, "2097152 bytes but 1 chunks"),
        ({"files": [entry().to_json() | {"size": 0}]}, "0 bytes but 1 chunks"),
        ({"files": [entry().to_json() | {"size": -1}]}, "size of"),
        ({"files": [entry().to_json() | {"size": "5"}]}, "size of"),
        ({"files": [entry().to_json() | {"chunks": "xyz"}]}, "chunks of"),
        ({"files": [entry().to_json() | {"chunks": DIGEST.upper()}]}, "chunks of"),
        ({"files": [entry().to_json() | {"rank": -1}]}, "rank of"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_reason(change: dict[str, object], said: str) -> None:
    """Whatever this program cannot have written is refused, and the message names it."""
    record = json.loads(manifest().to_bytes()) | change
    with pytest.raises(DataDamaged, match=said):
        m.NodeManifest.from_bytes(encode(record))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "../up", "a/../b", "a//b", "a/", "/", "", ".", "./a", "a/.", "nul\0", "line\nbreak", "tab\t",
        "\x7f", "\x85", "\u2028", "x" * 256, "y/" * 600 + "z", "\ud800", None, 5, ["a"],
    ],
)  # fmt: skip
def test_names_that_leave_the_folder_or_the_line_are_refused(name: object) -> None:
    """No path from a manifest can point outside its folder or print as more than one line."""
    with pytest.raises(DataDamaged):
        safe_name(name)
    record = json.loads(manifest().to_bytes())
    record["files"][0]["name"] = name
    with pytest.raises(DataDamaged):
        m.NodeManifest.from_bytes(json.dumps(record).encode("utf-8", "surrogatepass"))


def test_a_plain_name_has_no_folders() -> None:
    """A run id is one part of a path."""
    assert plain_name("a b", "x") == "a b"
    with pytest.raises(DataDamaged, match="x="):
        plain_name("a/b", "x")


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":Infinity}', b"[" * 100_000, b"9" * 5000]
)
def test_json_that_is_not_strict_is_refused(data: bytes) -> None:
    """Repeated keys, constants that are no JSON, bombs of brackets and digits end in one error."""
    with pytest.raises(DataDamaged, match="thing is not valid JSON"):
        decode(data, "thing")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"}, {"epoch": -1}, {"at": "now"}, {"at": True}, {"parts": []}, {"parts": [1]},
        {"generation": "x"}, {"world_size": None},
    ],
)  # fmt: skip
def test_a_wrong_commit_is_refused(change: dict[str, object]) -> None:
    """A commit with a field that cannot be is no commit."""
    with pytest.raises(DataDamaged):
        m.Commit.from_json(commit(manifest()).body() | change)


def test_a_commit_names_each_node_once() -> None:
    """Two parts of one node would let one manifest stand for two."""
    body = commit(manifest("n1"), manifest("n2")).body()
    with pytest.raises(DataDamaged, match="not sorted, repeated"):
        m.Commit.from_json(body | {"parts": body["parts"][:1] * 2})
    with pytest.raises(DataDamaged, match="not sorted, repeated"):
        m.Commit.from_json(body | {"parts": body["parts"][::-1]})


@given(st.lists(st.tuples(st.integers(0, 10**15 - 1), st.integers(0, 10**9 - 1)), min_size=1))
def test_generations_sort_by_number(pairs: list[tuple[int, int]]) -> None:
    """Steps that outgrow nine digits still sort as numbers."""
    names = [m.generation_name(step, attempt) for step, attempt in pairs]
    assert sorted(names, key=m.parse_generation) == [m.generation_name(*pair) for pair in sorted(pairs)]
    assert all(m.is_generation(name) for name in names)


@pytest.mark.parametrize(("step", "attempt"), [(-1, 0), (0, -1), (10**15, 0), (0, 10**9)])
def test_numbers_that_no_generation_can_have(step: int, attempt: int) -> None:
    """A step or attempt outside its range is the caller's mistake."""
    with pytest.raises(UsageError):
        m.generation_name(step, attempt)
    assert not m.is_generation(f"{step}-{attempt}")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["step_5.pt"], "step_5.pt"),
        (["step_5/rank_0.pt"], "step_5"),
        (["step_5/rank_0.pt", "step_5/rank_1.pt"], "step_5"),
        (["ck/step_05/model/a", "ck/step_05/optim/b"], "ck/step_05"),
        (["step_5_a.pt", "step_5_b.pt"], ""),
        (["step_5/a", "other_5/b"], ""),
        (["models/step_5.pt"], ""),
    ],
)
def test_what_the_program_is_handed(names: list[str], wanted: str) -> None:
    """A single file at the top is handed over itself, a step's folder as the folder, anything else as the top."""
    assert m.program_path([entry(name) for name in names], 5) == wanted


def test_a_rank_file_is_handed_over_as_its_folder_for_every_world_size() -> None:
    """A program that writes one file a rank gets a folder also when it ran on one rank."""
    assert m.program_path([entry("step_5_rank_0.pt", rank=0)], 5) == ""


def test_completeness() -> None:
    """Without {rank} any part will do; with it each rank of the world must have a file."""
    assert not m.is_complete([], 2, wants_all_ranks=False)
    assert m.is_complete([part("n1")], 2, wants_all_ranks=False)
    assert not m.is_complete([part("n1", 0)], 2, wants_all_ranks=True)
    assert m.is_complete([part("n1", 0), part("n2", 1)], 2, wants_all_ranks=True)
    assert m.missing_ranks([part("n1", 0, 3)], 5) == (1, 2, 4)


def test_the_union_of_the_nodes() -> None:
    """The files of all nodes, each once; the same content on two nodes is one file."""
    one, other = manifest("n1", entry("a"), entry("b")), manifest("n2", entry("b"), entry("c"))
    union = m.check_against(commit(one, other), {"n1": one, "n2": other})
    assert [each.name for each in union] == ["a", "b", "c"]


def test_two_contents_under_one_name_are_refused() -> None:
    """A generation in which two nodes wrote different bytes to one name has no single content."""
    one, other = manifest("n1", entry("a", 5)), manifest("n2", entry("a", 6))
    with pytest.raises(DataDamaged, match="different content"):
        m.check_against(commit(one, other), {"n1": one, "n2": other})


@pytest.mark.parametrize(
    "other",
    [
        replace(manifest("n1"), node="n2"),
        replace(manifest("n1"), run_id="another"),
        replace(manifest("n1"), generation="000000002-0000"),
        replace(manifest("n1"), files=(entry("a", 7),)),
        replace(manifest("n1"), files=(entry("a", 5, 1),)),
    ],
)
def test_a_manifest_of_something_else_is_refused(other: m.NodeManifest) -> None:
    """A sound manifest of another node, run, generation or content does not pass for the committed one."""
    with pytest.raises(DataDamaged):
        m.check_against(commit(manifest("n1")), {"n1": other})


def test_chunks_by_number() -> None:
    """Digests lie one after the other."""
    two = m.FileEntry(name="a", size=m.CHUNK_BYTES + 1, chunks=DIGEST + "f" * 32)
    assert (two.chunk_count, two.chunk(0), two.chunk(1)) == (2, DIGEST, "f" * 32)
