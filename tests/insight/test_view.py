from __future__ import annotations

import time
from dataclasses import replace

import pytest

from ftslurm.insight import strip, table, view
from ftslurm.insight.board import Identity, Row, Standing, row
from ftslurm.insight.changes import Changes, record, words
from ftslurm.insight.gathering import Picture
from ftslurm.insight.strip import Mark
from ftslurm.insight.summary import Summary, summarise
from ftslurm.slurm.records import JobInfo, JobState, Source
from tests.insight.journals import START, Tale

HOSTILE = "a|\x1b[31mb\n\x9b2J\u202e<script>"
JOB = JobInfo(job_id="101", state=JobState.RUNNING, source=Source.CONTROLLER, start_time=START, end_time=START + 3600)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of day are those of Greenwich."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def story() -> Tale:
    """A run that has lost a node and goes on without it, with another one in doubt."""
    tale = Tale().start().save(100, after=10).save(200, after=10).lose("n3").launched()
    tale.save(300, after=10).save(400, after=10).silent("n2")
    return tale


def shown(summary: Summary, run_id: str = "gpt-small-20260225-abcdef") -> Row:
    """The run as it is shown a minute after its start."""
    return row(Identity(run_id=run_id, run_dir="/r", job_ids=("101",)), summary, {"101": JOB}, START + 100)


def screen(*rows: Row, size: tuple[int, int] = (100, 24), **more) -> list[str]:
    """The lines of a screen."""
    picture = Picture(at=START + 100, rows=rows, asked=START + 97, **more)
    return [line.plain for line in view.lines(picture, table.choose(None), START + 101, chosen=False, size=size)]


def test_the_usual_picture():
    """A header, a table, and of each run that is alive its steps, its time, its nodes and what has happened to it."""
    assert screen(shown(summarise(story().entries))) == [
        "1 run: 1 live                                                        Slurm spoke 0:04 ago   06:15:01",
        "JOBID NAME      ST PHASE      ATTEMPT NODES STEP CKPT_AGE TIME TIME_LEFT NODELIST(REASON)",
        "  101 gpt-small R  suspecting       1     3  400     0:43 1:40     58:20 n[1-2,4]",
        "gpt-small-20260225-abcdef, job 101: suspecting",
        "  steps  400, 8.4 a second, saved 0:43 ago; on shared storage: 400",
        "  time   [........................] 1:40 of 1:00:00, 58:20 left: about step 30177 by then",
        "  nodes  o?-o   n2 suspected  n3 lost",
        "  06:13:51 node_unreachable: attempt 1 trains from step 200, 3.0 s later; n3 is silent for 3.1 s; pe",
        "q leaves   o healthy  . spare  ! unwell  ? suspected  x excluded  - lost  ",
    ]


@pytest.mark.parametrize("width", [20, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 12, 60])
def test_a_picture_fits_any_terminal(width, height):
    """No line is wider, there are never more lines, and what matters most stays."""
    over = summarise(Tale().start().finish().entries)
    rows = [shown(over, f"done-{number}-20260225-abcdef") for number in range(30)]
    lines = screen(*rows, shown(summarise(story().entries)), size=(width, height))
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("31 runs: 1 live")
    if height >= 12 and width >= 60:
        assert "suspecting" in lines[2]
        assert any("n2 suspected" in line for line in lines)
        assert lines[-1].startswith("q leaves")
    assert (height >= 60) == any("done-29" in line for line in lines) or width < 60


def test_nothing_hostile_reaches_the_terminal():
    """Names, reasons and messages with control characters, in a picture, in lines and as JSON."""
    glance = summarise(story().entries).glance
    evil = replace(glance.happenings[0], text=HOSTILE, then=HOSTILE, cause=HOSTILE)
    told = replace(
        summarise(story().entries), allocation=("n1", HOSTILE), excluded=(HOSTILE,),
        glance=replace(glance, happenings=(evil,), suspected=(HOSTILE,)),
    )  # fmt: skip
    bad = replace(shown(told), run_id=HOSTILE, name=HOSTILE, reason=HOSTILE, phase=HOSTILE, nodes=(HOSTILE,))
    lines = [*screen(bad, problems=(HOSTILE,)), *words(bad, [evil], START)]
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[31m" in line for line in lines)
    assert record(bad, [evil], START)["happened"][0]["text"] == HOSTILE


def test_what_does_not_answer_is_said():
    """Slurm's silence is a line, and a picture that is old says how old."""
    lines = screen(shown(summarise(story().entries)), problems=("Slurm cannot be asked",))
    assert lines[1] == "Slurm cannot be asked"
    old = Picture(at=START - 100)
    (first, *_) = view.lines(old, table.choose(None), START, chosen=False, size=(100, 24))
    assert "NOTHING NEW FOR 1:40" in first.plain


def test_a_node_is_what_is_worst_about_it():
    """Lost before excluded before suspected before unwell; who is not in the attempt is a spare."""
    told = summarise(Tale().start().entries)
    assert set(strip.marks(told).values()) == {Mark.HEALTHY}
    told = replace(told, nodes=("n1", "n2"), excluded=("n3", "n4"), ills={"n1": ()})
    told = replace(told, glance=replace(told.glance, lost=("n4",), suspected=("n2", "n3")))
    assert strip.marks(told) == {"n1": Mark.UNWELL, "n2": Mark.SUSPECTED, "n3": Mark.EXCLUDED, "n4": Mark.LOST}
    assert strip.marks(replace(told, nodes=("n1",), glance=Summary().glance, excluded=()))["n2"] is Mark.SPARE


def test_many_nodes_are_counted():
    """A thousand nodes have no room for a character each: only those that are not well are named."""
    found = {f"n{number}": Mark.HEALTHY for number in range(1000)} | {"n7": Mark.LOST, "n8": Mark.LOST}
    assert strip.strip(found) == [("o998 ", Mark.HEALTHY), ("-2 ", Mark.LOST)]
    assert strip.named(found) == [("n[7-8] lost", Mark.LOST)]
    few = {f"n{number}": Mark.HEALTHY for number in range(128)}
    told = replace(summarise(Tale().start().entries), allocation=tuple(few), nodes=tuple(few))
    lines = screen(shown(told), size=(60, 24))
    strips = [line.removeprefix("  nodes").strip() for line in lines]
    assert sum(len(line) for line in strips if set(line) == {"o"}) == 128


def test_the_pace_is_that_of_the_newest_attempt():
    """Steps a second come from its own checkpoints; a single one tells nothing."""
    tale = Tale().start().save(100, after=10).save(200, after=10)
    assert summarise(tale.entries).glance.steps_per_s == pytest.approx(100 / 12.5, rel=0.2)
    assert summarise(tale.lose("n3").launched().entries).glance.steps_per_s is None


def test_what_happened_and_what_followed():
    """A verdict stays open until the training goes on, the job goes back to the queue, or the run ends."""
    tale = Tale().start().save(100, after=10).lose("n3")
    (happening,) = summarise(tale.entries).glance.happenings
    assert (happening.cause, happening.where, happening.over) == ("node_unreachable", "n3", None)
    tale.launched()
    (happening,) = summarise(tale.entries).glance.happenings
    assert happening.then.startswith("attempt 1 trains from step 100, ")
    assert summarise(tale.entries).glance.lost == ("n3",)


def test_only_news_are_told():
    """The same picture again is no news, whatever its ages; a change is, once."""
    tale, changes = story(), Changes()
    first = shown(summarise(tale.entries))
    assert [each for each, _ in changes.news((first,))] == [first]
    later = replace(first, time_s=500.0, left_s=10.0, checkpoint_age_s=77.0)
    assert changes.news((later,)) == []
    ended = replace(later, standing=Standing.OVER, phase="finished")
    assert [each.phase for each, _ in changes.news((ended,))] == ["finished"]
    assert changes.news((ended,)) == []
