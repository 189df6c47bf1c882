"""Sites that are not like the lab: no ssh between nodes, another name for the network, limits in accounting."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftslurm.lab.cluster import Cluster
from tests.lab.longer import long_test
from tests.lab.training import patient, program, submit, workplace
from tests.test_site_pages import commands, cron_lines, text_of

pytestmark = pytest.mark.lab


@contextmanager
def no_ssh(lab: Cluster) -> Iterator[None]:
    """No node lets the lab's user in: nobody's key is accepted."""
    keys = lab.layout.home(lab.user) / ".ssh" / "authorized_keys"
    aside = keys.with_name("aside")
    keys.rename(aside)
    try:
        yield
    finally:
        aside.rename(keys)


@contextmanager
def second_names(lab: Cluster) -> Iterator[None]:
    """Every node has a second name, with -ib behind it; the lab's hosts file is bound into every node."""
    hosts = lab.layout.etc / "hosts"
    text = hosts.read_text()
    more = [f"{address} {name}-ib" for address, name in re.findall(r"^(\S+) (n\d+)$", text, re.MULTILINE)]
    with hosts.open("a") as file:
        file.write("\n" + "\n".join(more) + "\n")
    try:
        yield
    finally:
        with hosts.open("w") as file:
            file.write(text)


def doctor(lab: Cluster, work: Path, line: str) -> dict[str, Any]:
    """What a line for the doctor finds out, as the lab's user types it in a folder."""
    argv = [sys.executable, "-m", *shlex.split(line.partition(" >")[0])]
    environ = {"XDG_CONFIG_HOME": str(work / "config"), "FTSLURM_HOME": str(work / "home")}
    argv = ["env", f"--chdir={work}", *argv, *([] if "--json" in argv else ["--json"])]
    done = lab.login(argv, user=lab.user, timeout=200, env=environ)
    assert done.returncode in (0, 78), done.stderr
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def applying(record: dict[str, Any]) -> set[str]:
    """The traps that the doctor has found."""
    return {",".join(each["traps"]) for each in record["findings"] if each["standing"] == "applies"}


@long_test("two probe jobs and a cut node")
def test_without_ssh_a_cut_node_is_found_by_the_others(lab: Cluster) -> None:
    """A refusal of ssh is unknown, never dead: the doctor says so, and ping and srun convict the node."""
    with no_ssh(lab):
        run = patient(lab, name="nossh", nodes=3, user=lab.user)
        lab.cut("n3")
        run.wait("the next attempt", lambda: len(run.restored_steps()) == 2)
        assert run.launches()[1] == ("n1", "n2")
        story = lab.login(
            ["ftslurm", "explain", run.job], user=lab.user, timeout=60, env={"FTSLURM_RUN_ROOT": str(run.root.parent)}
        )
        assert story.returncode == 0, story.stderr
        lab.heal("n3")
        run.enough()
        assert run.wait_end() == ("finished", 0)
        words = [
            found for event in run.events("NodeProbed") for found in event["findings"] if found["witness"] == "ssh"
        ]
        assert {found["outcome"] for found in words} <= {"unknown", "unreachable"}, words
        lab.restore()
        (line,) = [line for line in commands("without-ssh") if line.endswith("doctor --probe")]
        record = doctor(lab, workplace(lab, "nossh-doctor", lab.user), line)
    assert record["facts"]["probe.ssh_works"] is False
    assert "A9" in applying(record)
    assert "F4,A9,M32" not in applying(record)


@long_test("a probe job by a rule for names")
def test_a_rule_for_names_is_probed_and_used(lab: Cluster) -> None:
    """With `{host}-ib` nodes connect by their second names, MASTER_ADDR is theirs; what accounting allows is read, too."""
    work = workplace(lab, "names", lab.user)
    (text,) = re.findall(r"^```yaml\n# train.yaml\n(.*?)^```", text_of("without-ssh"), re.MULTILINE | re.DOTALL)
    (work / "train.yaml").write_text(text)
    (line,) = [line for line in commands("without-ssh") if "train.yaml --probe" in line]
    with second_names(lab):
        lab.login(["sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=2"], timeout=30)
        record = doctor(lab, work, line)
        facts = record["facts"]
        assert (facts["probe.connected"], facts["probe.no_address"], facts["probe.one_way"]) == (True, [], [])
        assert (facts["limit.qos"], facts["limit.submit"], facts["limit.account"]) == ("normal", 2, "lab")
        run = patient(lab, name="rule", nodes=2, user=lab.user, network={"interface": "{host}-ib"})
        run.enough()
        assert run.wait_end() == ("finished", 0)
        (released,) = run.actions("ReleaseRanks")
        assert released["master_addr"] in (lab.layout.etc / "hosts").read_text()
        lab.login(["sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=-1"], timeout=30)


@long_test("a probe job of a line for cron")
def test_the_probe_of_the_page_for_cron_works(lab: Cluster) -> None:
    """The line for the site profile writes one, as it stands there."""
    (line,) = {line for line in cron_lines() if "--probe" in line}
    record = doctor(lab, workplace(lab, "cron", lab.user), line)
    assert record["probed"] is True
    assert Path(record["profile"]).is_file()


@long_test("a run whose configured network leads to loopback")
def test_an_interface_that_leads_to_loopback_is_refused_in_words(lab: Cluster) -> None:
    """`interface: lo` ends the run before it begins, and the job's output says why and what to do."""
    work = workplace(lab, "lo", None)
    run = submit(
        lab, program("until_told", "--until", work / "x"), name="lo", nodes=2, work=work, network={"interface": "lo"}
    )
    run.wait_job()
    assert "network.interface: lo gives 127.0.0.1" in run.output()
    assert "ip -4 addr" in run.output()
