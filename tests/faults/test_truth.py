from __future__ import annotations

from dataclasses import replace

import pytest

from ftslurm.errors import DataDamaged, StorageError
from ftslurm.faults.truth import Injection, Outcome, Truth
from ftslurm.paths import RunPaths

FIRST = Injection(id="a", fault="kill", at=1.5, node="n2", rank=3, draw={"seed": 7, "of": [3, 4], "drawn": 3})


@pytest.fixture
def truth(tmp_path):
    """The truth of a run."""
    return Truth(RunPaths(tmp_path))


def test_the_last_word_on_an_injection_counts(truth):
    """Injections are read in the order of their beginnings."""
    assert truth.read() == []
    second = Injection(id="b", fault="stop", at=2.0)
    for each in (FIRST, second, replace(FIRST, outcome=Outcome.DONE, at=1.6), replace(second, undone_at=9.0)):
        truth.append(each)
    assert truth.read() == [replace(FIRST, outcome=Outcome.DONE, at=1.6), replace(second, undone_at=9.0)]
    assert truth.path.stat().st_mode & 0o777 == 0o600


def test_a_torn_line_loses_nothing_else(truth):
    """Its writer was killed; what others wrote before and after it is there."""
    truth.append(FIRST)
    with truth.path.open("ab") as file:
        file.write(b'{"id":"b","fau')
    assert truth.read() == [FIRST]
    truth.append(replace(FIRST, undone_at=4.0))
    assert truth.read() == [replace(FIRST, undone_at=4.0)]


@pytest.mark.parametrize("line", ["[]", '{"id": "a"}', '{"id":"a","fault":"kill","at":1,"outcome":"perhaps"}', "NaN"])
def test_what_is_none_of_ours_is_no_truth(truth, line):
    """A complete line that this release cannot have written is an error, not nothing."""
    truth.path.write_text(f"{line}\n")
    with pytest.raises(DataDamaged):
        truth.read()


def test_without_a_record_nothing_is_promised(truth):
    """A file that cannot be written is said at once; a link is not followed."""
    truth.path.symlink_to("/dev/null")
    with pytest.raises(StorageError, match="cannot write"):
        truth.append(FIRST)
