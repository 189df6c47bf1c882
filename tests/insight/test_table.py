from __future__ import annotations

import pytest

from ftslurm.errors import UsageError
from ftslurm.insight import table
from ftslurm.insight.board import Identity, Row, Standing, row
from ftslurm.insight.summary import summarise
from ftslurm.slurm.records import JobInfo, JobState, Source
from tests.insight.journals import START, Tale


def rows() -> list[Row]:
    """A run that trains, and one with hostile names."""
    summary = summarise(Tale().start().save(100, after=10).entries)
    job = JobInfo(job_id="101", state=JobState.RUNNING, source=Source.CONTROLLER, start_time=START)
    good = row(Identity(run_id="gpt-small-20260225-abcdef", run_dir="/r"), summary, {"101": job}, START + 4000)
    bad = Row(
        run_id="x", run_dir="/a|b", name="a|\x1b[31mb\n", standing=Standing.LOST, phase="lost", reason="what\never" * 30
    )
    return [good, bad]


def test_the_usual_table():
    """Columns stand under their headers, numbers to the right, and unknown is a dash."""
    lines = table.table(rows()[:1], table.choose(None))
    assert lines == [
        "JOBID NAME      ST PHASE    ATTEMPT NODES STEP CKPT_AGE    TIME TIME_LEFT NODELIST(REASON)",
        "  101 gpt-small R  training       0     4  100  1:06:27 1:06:40      0:00 n[1-4]",
    ]


def test_lines_fit_a_terminal():
    """With a width, names and the last column are cut, and every line is marked where something is missing."""
    lines = table.table(rows(), table.choose(None), width=80)
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].endswith("+")


def test_nothing_hostile_is_printed():
    """Control characters from a journal are shown, in every form."""
    for lines in (table.table(rows(), table.choose(None)), table.parsable(rows(), table.choose(None))):
        assert all(line.isprintable() for line in lines)
        assert any("\\x1b[31m" in line for line in lines)


def test_parsable_lines_have_the_same_number_of_columns():
    """A separator inside a cell is escaped, and none stands at the end."""
    lines = table.parsable(rows(), table.choose("+FOLDER"))
    assert {line.count("|") for line in lines} == {11}
    assert "/a\\x7cb" in lines[-1]
    assert table.parsable(rows(), table.choose("phase,Step"), header=False) == ["training|100", "lost|-"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, list(table.DEFAULT)),
        ("NAME,PHASE", ["NAME", "PHASE"]),
        ("+EXCLUDED", [*table.DEFAULT[:-1], "EXCLUDED", table.DEFAULT[-1]]),
        ("+durable, STEP", [*table.DEFAULT[:-1], "DURABLE", table.DEFAULT[-1]]),
        ("reason", ["NODELIST(REASON)"]),
    ],
)  # fmt: skip
def test_columns_are_chosen_by_name(text, names):
    """`-o A,B` is just these, `+A` the usual ones and A before the last; case does not matter."""
    assert [column.name for column in table.choose(text)] == names


@pytest.mark.parametrize("text", ["", "+", "NAME,NIX", "\x1b[2J"])
def test_an_unknown_column_names_the_known_ones(text):
    """The error says which column is wrong and which there are, and prints nothing hostile."""
    with pytest.raises(UsageError) as error:
        table.choose(text)
    assert "NODELIST(REASON)" in error.value.hint
    assert str(error.value).isprintable()
