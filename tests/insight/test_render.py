from __future__ import annotations

import json

import pytest

from ftslurm.core.events import AgentLost, Outcome, Witness
from ftslurm.core.worlds import changed
from ftslurm.insight.export import of_story
from ftslurm.insight.lines import lines
from ftslurm.insight.render import relative, render
from ftslurm.insight.story import story
from tests.insight.journals import DEAD, Tale

HOSTILE = "\x1b[2J\x1b]0;owned\x07<b>x</b> \u202egnp\r\nforged: line\x9b31m\ud800"


def hostile() -> Tale:
    """A run in which everything that can carry text carries something evil."""
    tale = Tale().start().save(100, after=10)
    tale.happen(AgentLost(node="n2", reason=HOSTILE), after=1)
    tale.agent("n2", after=1)
    words = {**DEAD, Witness.PING: (Outcome.UNREACHABLE, HOSTILE), Witness.SSH: (Outcome.UNREACHABLE, HOSTILE)}
    tale.lose("n3", words)
    tale.damaged(HOSTILE)
    tale.launched()
    tale.crash(0, tail=f"Traceback\n{HOSTILE}\nValueError: {HOSTILE}")
    return tale


def test_a_story_as_a_person_sees_it():
    """The whole text of a small story: one lost node."""
    tale = Tale().start().save(100, after=10).wait(3)
    tale.lose("n3").launched()
    text = render(story(tale.entries), title="run demo", width=100)
    lines_after_stamp = [line for line in text.splitlines() if not line.startswith("20")]
    assert lines_after_stamp[0] == "run demo is training, 25.1 s after its first start"
    assert "INCIDENT 1: n3 was silent for 3.1 s (suspicion phi 12.3; 0 of 3 other nodes" in text
    assert text.split("silent too)\n")[1].startswith(
        "    verdict     node_unreachable (n3), confidence 0.95\n"
        "    witnesses   ok: peer (n2 answers), slurm (ALLOCATED)\n"
        "                unreachable: ping (100% packet loss), tcp (no answer within 3 s), ssh (timed out),\n"
        "                srun (no answer within 3 s)\n"
        "    otherwise   one of ssh, srun answering would have kept n3\n"
        "                peer not answering would have left it open: n3 would have been asked about again\n"
        "                one of ping, tcp answering would have made it node_frozen, and n3 lost all the same\n"
        "    plan        shrink: 3 of 4 nodes are left, min_nodes is 2"
    )
    assert "    restored    step 100 (000000100-0000), written in attempt 0\n" in text
    assert text.endswith(
        "in all 25.1 s: starting 2.5 s, productive 15.5 s, detecting 4.1 s, recovering 3.0 s\n"
        "2 attempts, 1 incident, 1 checkpoint saved, excluded: n3\n"
    )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_nothing_hostile_leaves_and_lines_fit(width):
    """Text from the journal can neither act on the terminal nor pretend to be a line of the story."""
    tale = hostile()
    text = render(story(tale.entries), title=f"run {HOSTILE}", width=width)
    found = [*text.splitlines(), *lines(tale.entries)]
    assert all(line.isprintable() for line in found)
    assert not any(line.lstrip().startswith("forged") for line in found)
    assert all(len(line) <= width for line in text.splitlines())
    assert "\\x1b[2J" in text
    text.encode()


def test_the_json_is_plain_ascii_and_whole():
    """The same story as JSON comes back equal, and holds no raw control character."""
    told = of_story(story(hostile().entries))
    text = json.dumps(told)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == told


def test_the_keys_of_the_json_are_stable():
    """Programs read these keys: a change is a new schema."""
    tale = Tale().start().save(100, after=10)
    tale.lose("n3").launched()
    told = of_story(story(tale.entries))
    assert set(told) == {
        "phase", "over", "exit_code", "reason", "jobs", "begun", "begun_epoch", "until", "until_epoch", "excluded",
        "newest_checkpoint", "totals", "moments", "incidents",
    }  # fmt: skip
    assert set(told["totals"]) == {
        "total_s", "spent_s", "lost_s", "attempts", "incidents", "requeues", "checkpoints_saved", "checkpoints_refused",
    }  # fmt: skip
    assert set(told["incidents"][0]) == {
        "number", "attempt", "sign", "sign_epoch", "noticed", "noticed_epoch", "noticed_by", "verdicts", "plans",
        "excluded", "notes", "launches", "released", "released_epoch", "restored", "stages_s", "recovery_s", "lost_s",
        "ranks", "outcome",
    }  # fmt: skip
    assert set(told["incidents"][0]["stages_s"]) == {"detect", "decide", "stop", "leave", "queue", "launch", "restore"}
    assert set(told["incidents"][0]["verdicts"][0]) == {
        "t", "t_epoch", "cause", "scope", "where", "confidence", "reason", "noticed_by", "findings", "evidence", "tail", "would_change",
    }  # fmt: skip
    assert set(told["moments"][0]) == {
        "t", "t_epoch", "kind", "slug", "text", "count", "until", "until_epoch", "incident",
    }  # fmt: skip


def test_every_entry_has_its_line():
    """The long form has one line an entry, numbered as in the journal, with what followed."""
    tale = Tale().start()
    found = list(lines(tale.entries))
    assert len(found) == len(tale.entries)
    assert "e1 starting    AllocationGranted(job_id=101" in found[0]
    assert "=> LaunchAgents(nodes=n[1-4]), SetTimer(name=agents after_s=30)" in found[0]


def test_a_run_that_never_started():
    """An empty journal is one sentence."""
    assert render(story([]), title="run x") == "run x: nothing has happened yet: no supervisor has started\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "+0.0 s"), (59.9, "+59.9 s"), (60.0, "+1:00"), (90_000.0, "+1-01:00:00")]
)
def test_relative_times(seconds, text):
    """Tenths count in the first minute only."""
    assert relative(seconds) == text


def test_a_smaller_world_is_said():
    """At a shrink the numbers of ranks before and after are told, in words and as data; at a restart in full nothing is."""
    tale = Tale().start().save(100, after=10)
    tale.lose("n3").launched()
    told = story(tale.entries)
    (incident,) = told.incidents
    assert incident.worlds is not None
    before, after = incident.worlds
    assert after < before
    assert changed(before, after) in " ".join(render(told).split())
    assert of_story(told)["incidents"][0]["ranks"] == {"before": before, "after": after}
    whole = story(Tale().start().save(100, after=10).crash(0).launched().entries)
    assert whole.incidents[0].worlds is None
    assert "gradient accumulation" not in render(whole)
