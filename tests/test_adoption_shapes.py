"""Launch scripts as users have them: what they had to change, and that nothing in them is refused."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from ftslurm.ownscript import examine

FOLDER = Path(__file__).parent / "data" / "adoption"
SHAPES = sorted(path.stem for path in FOLDER.glob("*.sbatch"))
OURS = "ftslurm run"


def words_of(path: Path) -> list[str]:
    """A script's words and blanks; `ftslurm run` stands for one word."""
    return [OURS if word == "\0" else word for word in re.split(r"(\s+)", path.read_text().replace(OURS, "\0"))]


def test_there_are_enough_shapes():
    """Ten at least, each beside its original."""
    assert len(SHAPES) >= 10
    assert sorted(path.stem for path in (FOLDER / "original").glob("*.sbatch")) == SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_at_most_two_words_differ_from_the_original(shape):
    """And each of them is srun, which has become `ftslurm run`."""
    before, after = (words_of(folder / f"{shape}.sbatch") for folder in (FOLDER / "original", FOLDER))
    changes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    changed = [(before[a:b], after[c:d]) for tag, a, b, c, d in changes if tag != "equal"]
    assert 1 <= len(changed) <= 2
    assert all(pair == (["srun"], [OURS]) for pair in changed)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_adopted_script_passes(shape):
    """Nothing in it is refused; of the strange things only the array and the ignored option are said."""
    found = examine((FOLDER / f"{shape}.sbatch").read_text(), (), {}, ("FTSLURM_NO_KILL",), FOLDER)
    assert "--no-kill" in [each.option for each in found.additions]
    assert all("--array" in note for note in found.notes)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_original_is_told_what_is_missing(shape):
    """A script that does not call `ftslurm run` is warned of, with the lines where srun stands."""
    notes = examine((FOLDER / "original" / f"{shape}.sbatch").read_text(), (), {}, (), FOLDER).notes
    assert any(note.startswith("WARNING: the script does not call `ftslurm run`") for note in notes)
