"""Directives are read as sbatch reads them; the table was compared with what sbatch of Slurm 22.05.8 makes of each."""

from __future__ import annotations

import pytest

from ftslurm.slurm.directives import Option, asked, options_of, read

SCRIPT = """#!/bin/bash
#SBATCH --nodes=4 --ntasks-per-node=1   # one rank a node
# SBATCH --nodes=9
##SBATCH --nodes=9
 #SBATCH --nodes=9

#SBATCH --job-name="two words" -t 10:00
#SBATCH --comment='a # b' -N2
export A=1
#SBATCH --nodes=9
"""


def test_directives_end_with_the_first_command():
    """Comments, other columns and what stands behind the first command are no directives; quotes group, # ends."""
    assert [(each.name, each.value, each.line) for each in read(SCRIPT).options] == [
        ("nodes", "4", 2),
        ("ntasks-per-node", "1", 2),
        ("job-name", "two words", 7),
        ("time", "10:00", 7),
        ("comment", "a # b", 8),
        ("nodes", "2", 8),
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--no-req", [("no-requeue", None)]),
        ("--exp ALL", [("exp", None)]),  # two options begin so: sbatch refuses it
        ("--export ALL,X=1 --requeue", [("export", "ALL,X=1"), ("requeue", None)]),
        ("-k -H", [("no-kill", None), ("hold", None)]),
        ("-Hk", [("hold", None), ("no-kill", None)]),
        ("-koff", [("no-kill", "off")]),
        ("-J demo -a0-3%1", [("job-name", "demo"), ("array", "0-3%1")]),
        (r"--job-name=a\ b", [("job-name", "a")]),  # sbatch takes b for a word, and refuses it
        (r"--comment=a\#b\"", [("comment", 'a#b"')]),
        ("--comment=a#b", [("comment", "a")]),
        (r'--comment="a\"b" -N2', [("comment", 'a"b'), ("nodes", "2")]),
        ("--comment=''", [("comment", "")]),
        ("--sig=B:USR1@60", [("signal", "B:USR1@60")]),
    ],
)
def test_options_in_all_their_forms(line, found):
    """Long and short, with and without a value, joined, and cut to a beginning that no other option has."""
    assert [(each.name, each.value) for each in read(f"#!/bin/sh\n#SBATCH {line}\n").options] == found


def test_heterogeneous_jobs_are_found():
    """The line that begins another component says so by one word."""
    assert read("#!/bin/sh\n#SBATCH -N1\n#SBATCH hetjob\n#SBATCH -N2\n").hetjob_line == 3
    assert read("#!/bin/sh\n#SBATCH -N1\n").hetjob_line == 0


def test_the_last_option_of_the_first_source_counts():
    """The command line beats the file, and in one place the last one counts."""
    line, file = options_of(["--open-mode=append"]), options_of(["--open-mode=truncate", "-N1", "-N2"])
    assert asked("open-mode", line, file) == Option("open-mode", "append")
    assert asked("nodes", line, file) == Option("nodes", "2")
    assert asked("signal", line, file) is None
