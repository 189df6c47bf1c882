from __future__ import annotations

import pytest

from ftslurm.core.actions import Requeue
from ftslurm.runtime.requeue import requeue
from ftslurm.slurm.client import SlurmClient
from tests.slurm.fake import FakeSlurm

SCRIPT = "#!/bin/sh\ntrue\n"


@pytest.fixture
def fake(tmp_path):
    """Give a Slurm of four nodes."""
    return FakeSlurm(tmp_path)


def ask(fake: FakeSlurm, exclude: tuple[str, ...], *, nodes: int, before: str = ""):
    """Requeue a running job of so many nodes; return the answer and what Slurm excludes then."""
    slurm = SlurmClient(environ=fake.environ)
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", *([f"--exclude={before}"] if before else [])]
    job_id = slurm.submit(SCRIPT, options)
    asked = Requeue(num_nodes=nodes, num_tasks=nodes, exclude=exclude, reason="test")
    answer = requeue(slurm, job_id, asked, any_size=False)
    return answer, set(slurm.job(job_id).exc_nodes)


@pytest.mark.parametrize(
    ("before", "exclude", "nodes", "excluded", "forgiven"),
    [
        ("", ("n2",), 2, {"n2"}, ()),
        ("n4", ("n2",), 2, {"n2", "n4"}, ()),
        ("n4", ("n2", "n4"), 2, {"n2", "n4"}, ()),
        ("n4", (), 2, {"n4"}, ()),
        ("n4", ("n2",), 3, {"n4"}, ("n2",)),
        ("", ("n2", "ghost"), 2, {"n2"}, ()),
        ("", ("n2",), 4, set(), ("n2",)),
    ],
)
def test_exclusions_are_united(fake, before, exclude, nodes, excluded, forgiven):
    """What the job excludes already stays; unknown names are left out; the partition stays large enough."""
    answer, found = ask(fake, exclude, nodes=nodes, before=before)
    assert answer.ok
    assert found == excluded
    assert answer.forgiven == forgiven
    assert ("fewer than" in answer.detail) == bool(forgiven)


def test_changes_are_made_in_the_order_that_slurm_needs(fake):
    """First the requeue, then tasks, nodes, exclusions (M28); what Slurm says afterwards is in the answer."""
    answer, _ = ask(fake, ("n2",), nodes=2)
    verbs = [call[1] for call in fake.calls if call[0] == "scontrol"]
    changed = [call[3].partition("=")[0] for call in fake.calls if call[:2] == ["scontrol", "update"]]
    assert changed == ["NumTasks", "NumNodes", "ExcNodeList"]
    assert verbs.index("requeue") < verbs.index("update")
    assert verbs[-1] == "show"
    assert "excludes n2" in answer.detail


def test_a_refusal_is_an_answer(fake):
    """Slurm's words come back; nothing is raised."""
    fake.fail("scontrol requeue", "refuse")
    answer, _ = ask(fake, ("n2",), nodes=2)
    assert not answer.ok
    assert answer.detail
