from __future__ import annotations

import pytest

from ftslurm.demo import advice
from ftslurm.errors import Refused, SiteForbids, UsageError
from ftslurm.slurm import site

TEXT = """\
PartitionName=main Default=YES MaxNodes=UNLIMITED State=UP TotalNodes=4
PartitionName=one Default=NO MaxNodes=UNLIMITED State=UP TotalNodes=1
PartitionName=single Default=NO MaxNodes=1 State=UP TotalNodes=9
PartitionName=shut Default=NO MaxNodes=UNLIMITED State=DOWN TotalNodes=4
PartitionName=silent Default=NO
"""
KNOWN = site.partitions(TEXT)


@pytest.mark.parametrize(
    ("asked", "nodes", "found"), [(None, 2, "main"), ("main", 4, "main"), ("one", 1, "one"), ("silent", 64, "silent")]
)
def test_where_the_job_goes(asked, nodes, found):
    """The partition that is named, or the default one; what Slurm does not say is no obstacle."""
    assert advice.partition_of(KNOWN, asked, nodes) == found


@pytest.mark.parametrize(
    ("known", "asked", "nodes", "kind", "message", "hint"),
    [
        (KNOWN, "nope", 2, UsageError, "there is no partition nope that you may use", "main, one, single, shut, silent"),
        (site.partitions(TEXT.replace("YES", "NO")), None, 2, UsageError, "no default partition", "name one with -p; there are: main"),
        ({}, None, 2, UsageError, "no default partition", "there are: none"),
        (KNOWN, "one", 2, SiteForbids, "partition one has 1 node, and the demonstration asks for 2", "ftslurm demo -p one --nodes 1"),
        (KNOWN, "single", 2, SiteForbids, "allows 1 node a job", "ftslurm demo -p single --nodes 1 (two ranks on one node); or ftslurm demo -p main"),
        (KNOWN, "main", 5, SiteForbids, "has 4 nodes, and the demonstration asks for 5", "ftslurm demo -p main --nodes 1"),
        (KNOWN, "shut", 2, SiteForbids, "its state is DOWN", "instead: ftslurm demo -p main"),
        (site.partitions(TEXT.splitlines()[3]), "shut", 1, SiteForbids, "its state is DOWN", "sinfo -s"),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_and_what_to_do(known, asked, nodes, kind, message, hint):
    """Every refusal names the way out: another partition, fewer nodes."""
    with pytest.raises(kind) as refused:
        advice.partition_of(known, asked, nodes)
    assert message in str(refused.value)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("reason", "passes", "words"),
    [
        ("Priority", True, "waits for its turn"),
        ("(Resources)", True, "-p asks for another partition"),
        ("", True, "waits for its turn"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-4]", True, "sinfo -R"),
        ("PartitionTimeLimit", False, "--nodes 1"),
        ("PartitionDown", False, "starts no jobs now"),
        ("JobHeldAdmin", False, "held"),
        ("InvalidAccount", False, "--account=NAME"),
        ("BadConstraints", False, "--account=NAME"),
        ("QOSMaxJobsPerUserLimit", True, "--qos=NAME"),
        ("AssocGrpCpuLimit", True, "--qos=NAME"),
        ("SomethingNew", True, "man squeue"),
    ],
)
def test_why_a_job_waits(reason, passes, words):
    """Slurm's reason becomes a sentence; only what never passes ends the wait."""
    found = advice.waiting(reason)
    assert found.passes is passes
    assert words in found.advice


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Invalid account or account/partition combination specified", "--account=NAME"),
        ("Invalid qos specification", "--qos=NAME"),
        ("Memory specification can not be satisfied / Requested node configuration is not available", "--mem=1G"),
        ("Requested node configuration is not available", "--nodes 1"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "another one with -p"),
        ("User's group not permitted to use this partition", "another partition"),
        ("This site wants a reservation", "go behind --"),
    ],
)
def test_what_to_do_when_sbatch_refuses(said, words):
    """Slurm's words stay, and the hint says what to add."""
    found = advice.with_advice(Refused(f"sbatch: error: {said}"))
    assert isinstance(found, Refused)
    assert said in str(found)
    assert words in found.hint
