from __future__ import annotations

from ftslurm.runtime.voice import Voice


def test_output_of_rank_0_has_its_attempt_before_it(capsys):
    """Each attempt's output is marked once, and is otherwise byte for byte what rank 0 has printed."""
    voice = Voice()
    for attempt, text in ((0, "step 1\n"), (0, "step"), (0, " 2\n"), (1, "step 2\n")):
        voice.output(attempt, text)
    voice.close()
    mark = "[ftslurm] ---- output of rank 0, attempt {} ----\n"
    assert capsys.readouterr().out == f"{mark.format(0)}step 1\nstep 2\n{mark.format(1)}step 2\n"


def test_every_line_of_ours_is_marked(capsys):
    """Whoever reads the job's output can tell our lines from the program's."""
    voice = Voice()
    voice.say("first\nsecond")
    voice.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["first", "second"]
    assert all(line.startswith("[ftslurm ") for line in lines)
