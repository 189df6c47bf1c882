from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.core.faults import KINDS

ROOT = Path(__file__).parents[1]
SCENARIOS = {path.stem for path in (ROOT / "tests/scenarios").glob("*.txt")}
TEXT = (ROOT / "docs/fault-matrix.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if re.match(r"\| \d", line)]


def words(cell: str) -> list[str]:
    """The names in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def has_test(name: str) -> bool:
    """Whether a test of this name, as in `tests/core/test_world.py::test_it`, exists."""
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def test_no_row_is_missing():
    """Rows 9 to 11 are the store's."""
    assert [int(row[0]) for row in ROWS] == [*range(1, 9), *range(12, 21)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1].replace(" ", "-"))
def test_what_a_row_names_exists(row):
    """At least one story, one run in a simulated or faked world, and one on the lab."""
    _, _, follows, stories, simulated, lab = row
    assert follows
    assert words(stories)
    assert set(words(stories)) <= SCENARIOS
    assert words(simulated)
    assert [each for each in words(simulated) if each not in KINDS and not ("::" in each and has_test(each))] == []
    assert words(lab)
    assert [each for each in words(lab) if not has_test(f"tests/lab/{each.replace('::', '.py::')}")] == []
