from __future__ import annotations

import copy
import os

import pytest

from ftslurm.doctor import probe_facts
from ftslurm.doctor.facts import Facts
from ftslurm.doctor.folder import examine
from ftslurm.doctor.host import host_keys
from ftslurm.doctor.probe import NO_FOLDER, NO_PYTHON, Result
from ftslurm.doctor.probe_rules import CONFIG_PROBE_RULES, PROBE_RULES
from ftslurm.doctor.rules import Severity, Standing, judge

GIB = 2.0**30
FOLDER = {"exists": True, "file_system": "ext4", "free_bytes": 100 * GIB, "free_inodes": 1e6, "writable": True,
          "exclusive": True, "rename": True, "fsync_s": 0.002}  # fmt: skip
LOCAL = {**FOLDER, "own_seen": True, "foreign_seen": []}
STEP = {"code": 0, "took_s": 0.2, "words": ""}
BATCH = {
    "nodes": ["n1", "n2"], "batch_host": "n1", "overlap": STEP, "nodes_words": "",
    "mpi": {"pmix": {**STEP, "wanted": 2, "ranks": [{"marked": True, "size": 2}] * 2}},
    "scontrol": {"ok": True, "took_s": 0.02, "requeue": True}, "sbatch": {"ok": True},
    "signal": {"sent": True, "arrived": True},
}  # fmt: skip


def node(name: str, other: str) -> dict:
    """A healthy node's own words."""
    return {
        "node": name, "python": "3.11.2", "run_root": FOLDER, "cgroup": "2", "tmp_private": False, "nofile": 65536,
        "nvml": {"count": None, "why": ""}, "gpus_seen": False, "programs": ["ping", "ssh", "rsync"], "leftovers": 0,
        "resolved": "10.0.0.1", "interfaces": {"eth0": "10.0.0.1", "ib0": "10.1.0.1"}, "address": "10.0.0.1",
        "interface": "eth0", "port": 20123, "met": True, "beside": True,
        "scratch": {"/scratch": LOCAL, "/tmp": {**LOCAL, "file_system": "tmpfs"}},
        "peers": {other: {"address": "10.0.0.2", "connected": True, "took_s": 0.001, "offset_s": 0.1, "resolved": "x"}},
        "witnesses": {each: ["ok", "", "0.1"] for each in ("ping", "ssh", "srun", "tcp")},
    }  # fmt: skip


def result(**changes: object) -> Result:
    """A probe of two healthy nodes, with changes at `batch__x` (the batch host's) or `n1__x` (a node's)."""
    batch = copy.deepcopy(BATCH)
    nodes = {"n1": node("n1", "n2"), "n2": node("n2", "n1")}
    for key, value in changes.items():
        where, _, name = key.partition("__")
        (batch if where == "batch" else nodes[where])[name] = value
    return Result(job_id="77", code=None, batch=batch, requeue={"allowed": True, "words": ""}, nodes=nodes, log="")


def applying(found: Result) -> dict[str, Severity]:
    """What the rules say about a probe: numbers -> severity."""
    facts = Facts({**probe_facts.facts(found), "host.run_root": "/r", "host.python_path": "/p"})
    return {
        ",".join(each.rule.traps): each.rule.severity
        for each in judge(PROBE_RULES, facts)
        if each.standing is Standing.APPLIES
    }


def test_a_healthy_site_has_nothing_to_say():
    """No rule over the probe applies, and the profile holds what was proven; scratch on a disk goes first."""
    assert applying(result()) == {}
    proven = probe_facts.proven(probe_facts.facts(result()), "2026")
    assert (proven.scratch, proven.mpi, proven.requeue, proven.ssh, proven.interface) == (
        "/scratch",
        "pmix",
        True,
        True,
        "",
    )


@pytest.mark.parametrize(
    ("changes", "traps", "severity"),
    [
        ({"batch__overlap": {**STEP, "code": None}}, "P4,C1", Severity.STOPS),
        ({"batch__scontrol": {"ok": False, "words": "no"}}, "C6,P5", Severity.WARNING),
        ({"batch__sbatch": {"ok": False, "words": "no"}}, "P5", Severity.NOTE),
        ({"batch__signal": {"sent": True, "arrived": False}}, "D1", Severity.WARNING),
        ({"batch__all_gpus": {**STEP, "code": 1}, "batch__without_gpu": STEP}, "M21,P4", Severity.WARNING),
        ({"n1__run_root": {**FOLDER, "exclusive": False}}, "P1,H3", Severity.STOPS),
        ({"n2__run_root": {**FOLDER, "fsync_s": 3.0}}, "F5,H5", Severity.WARNING),
        ({"n2__met": False}, "F5", Severity.WARNING),
        ({"n1__leftovers": 3}, "E6", Severity.NOTE),
        ({"n1__nofile": 1024}, "H7", Severity.NOTE),
        ({"n1__gpus_seen": True}, "P7", Severity.NOTE),
        ({"n1__tmp_private": True}, "M31,P8", Severity.WARNING),
        ({"n1__resolved": "127.0.1.1"}, "P10", Severity.NOTE),
        ({"n1__scratch": {}}, "P9", Severity.WARNING),
        ({"n1__scratch": {"/scratch": {**LOCAL, "free_bytes": GIB}}}, "P9", Severity.WARNING),
        (
            {"n1__witnesses": {"ping": ["unknown", "filtered", "1"], "ssh": ["unknown", "refused", "1"],
                               "srun": ["ok", "", "0.1"]}},
            "F4,A9,M32", Severity.WARNING,
        ),
        ({"n2__witnesses": {"srun": ["failed", "no answer", "3"], "ping": ["ok", "", "0"], "ssh": ["ok", "", "0"]}},
         "M32,C2", Severity.WARNING),
        (
            {"batch__mpi": {"pmi2": {**STEP, "wanted": 2, "ranks": [{"marked": True, "size": 1}] * 2}}},
            "E3,M13,M5", Severity.WARNING,
        ),
        (
            {"n1__peers": {"n2": {"address": "x", "connected": True, "took_s": 0.1, "offset_s": -9.0, "resolved": "x"}}},
            "F3,P6", Severity.WARNING,
        ),
    ],
)  # fmt: skip
def test_one_fault_of_a_site_is_found(changes, traps, severity):
    """One changed word of one node brings its rule with its severity."""
    assert applying(result(**changes)).get(traps) is severity


def test_a_folder_that_another_node_sees_is_no_scratch():
    """A marker of another node that is seen proves that the folder is shared; then the next one is taken."""
    shared = {"/scratch": {**LOCAL, "foreign_seen": ["n2"]}, "/tmp": {**LOCAL, "file_system": "tmpfs"}}
    facts = probe_facts.facts(result(n1__scratch=shared))
    assert (facts["probe.scratch"], facts["probe.scratch_shared"]) == ("/tmp", ("/scratch",))


def test_scratch_is_proven_by_two_nodes_only():
    """One node proves nothing about what others see; nodes that did not meet prove nothing either."""
    one = result()
    del one.nodes["n2"]
    assert probe_facts.facts(one)["probe.scratch"] is None
    assert probe_facts.facts(result(n1__met=False))["probe.scratch"] is None


def test_a_folder_named_after_the_job_is_not_kept():
    """The next job has another one."""
    own = {"/local/job.77": LOCAL, "/tmp": LOCAL}
    assert probe_facts.facts(result(n1__scratch=own, n2__scratch=own))["probe.scratch"] == "/tmp"


def test_a_folder_that_is_mounted_for_the_job_is_the_last_choice():
    """It goes with the job, so a lasting one is kept in the profile; where it may go with a lost node, it is none."""
    private, wiped = {**LOCAL, "private": True}, {**LOCAL, "private": True, "wiped": True}
    both = {"/tmp": private, "/disk": LOCAL}
    assert probe_facts.facts(result(n1__scratch=both, n2__scratch=both))["probe.scratch"] == "/disk"
    alone = {"/tmp": private}
    assert probe_facts.facts(result(n1__scratch=alone, n2__scratch=alone))["probe.scratch"] == "/tmp"
    lost = {"/tmp": wiped}
    found = result(n1__scratch=lost, n2__scratch=lost)
    assert probe_facts.facts(found)["probe.scratch"] == "none"
    assert applying(found) == {"M31": Severity.WARNING, "P9": Severity.WARNING}


@pytest.mark.parametrize(
    ("scratch", "said", "traps"),
    [
        ("/scratch", {**LOCAL, "foreign_seen": ["n2"]}, {"P9,K15"}),
        ("/scratch", {**LOCAL, "private": True}, {"M31,K15"}),
        ("/scratch", LOCAL, set()),
        ("auto", {**LOCAL, "private": True}, set()),
    ],
)
def test_a_configured_scratch_is_judged(scratch, said, traps):
    """A folder that somebody has named is not better for that: shared by nodes, or gone with the job, it is said."""
    both = {"/scratch": said}
    facts = Facts({**probe_facts.facts(result(n1__scratch=both, n2__scratch=both)), "config.scratch": scratch})
    found = judge([rule for rule in CONFIG_PROBE_RULES if "K15" in rule.traps], facts)
    assert {",".join(each.rule.traps) for each in found if each.standing is Standing.APPLIES} == traps


def test_a_way_that_works_in_one_direction_only_is_named():
    """A firewall on one node lets nobody in: the report says which direction works, and with which words it does not."""
    closed = {"n2": {"address": "10.0.0.2", "connected": False, "error": "timed out", "by": [], "resolved": "x"}}
    facts = probe_facts.facts(result(n1__peers=closed))
    assert (facts["probe.unconnected"], facts["probe.one_way"]) == (("n1 to n2",), ("n2 to n1",))
    assert facts["probe.unconnected_words"] == "timed out"


def test_an_interface_that_works_is_advised_where_the_automatic_one_does_not():
    """Ranks that cannot connect stop a run; the report and the profile name the interface that would do."""
    lost = {"n2": {"address": "127.0.0.1", "connected": False, "error": "refused", "by": ["ib0"], "resolved": "x"}}
    found = result(n1__peers=lost, n1__address="127.0.0.1")
    assert applying(found)["P10,E2"] is Severity.STOPS
    assert probe_facts.proven(probe_facts.facts(found), "").interface == "ib0"


@pytest.mark.parametrize(("code", "traps"), [(NO_FOLDER, "P1,H4"), (NO_PYTHON, "P2")])
def test_a_batch_host_that_lacks_something_is_named(code, traps):
    """The batch script's own exit code tells what it did not find; all the rest stays unknown."""
    found = Result(job_id="7", code=code, batch={}, requeue={}, nodes={}, log="")
    assert applying(found) == {traps: Severity.STOPS}
    assert probe_facts.proven(probe_facts.facts(found), "").scratch == ""


def test_without_mpi4py_on_the_nodes_no_kind_of_mpi_is_called_broken():
    """Ranks that started with the launcher's marks, and cannot say how large their world is, prove nothing."""
    mute = {"pmix": {**STEP, "wanted": 2, "ranks": [{"marked": True, "size": None}] * 2}}
    assert probe_facts.facts(result(batch__mpi=mute))["probe.mpi_works"] is None
    assert probe_facts.proven(probe_facts.facts(result(batch__mpi=mute)), "").mpi == ""


def test_a_folder_is_examined_and_left_as_it_was(tmp_path):
    """All that a run needs is tried out, in files of its own that are removed."""
    found = examine(tmp_path)
    assert found["writable"] is found["exclusive"] is found["rename"] is True
    assert found["fsync_s"] >= 0
    assert os.listdir(tmp_path) == []
    assert examine(tmp_path / "not" / "yet")["exists"] is False


def test_a_folder_that_cannot_be_written_says_so():
    """The error is in the result; nothing is raised."""
    found = examine(__import__("pathlib").Path("/proc/self"))
    assert found["writable"] is False
    assert found["error"]


@pytest.mark.parametrize(
    ("text", "known"),
    [("n1,10.0.0.1 ssh-ed25519 A\nn2 ssh-ed25519 B\n", "all"), ("n1 x y\n", "some"), ("other x y\n", "none"),
     ("|1|abc= x y\n", None), ("*.cluster x y\n", None), ("@cert-authority * x y\n", None)],
)  # fmt: skip
def test_host_keys_are_looked_up_by_name(tmp_path, text, known):
    """Names stand in clear text, or nothing can be told."""
    (tmp_path / "known").write_text(text)
    assert host_keys(("n1", "n2"), [str(tmp_path / "known"), str(tmp_path / "absent")]) == known


def test_a_lost_node_is_named_and_the_site_is_not_blamed():
    """Where a node of the probe did not answer, steps that failed are unknown, not forbidden."""
    found = result(batch__overlap={**STEP, "code": 1, "words": "failed on node n2"})
    del found.nodes["n2"]
    assert applying(found)["P3"] is Severity.STOPS
    assert not {"P4,C1", "E3,M13,M5"} & set(applying(found))
