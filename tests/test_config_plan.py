"""The section `plan` of a configuration: what it takes, and what it says of mistakes."""

from __future__ import annotations

import pytest

from ftslurm.config import from_resolved, parse
from ftslurm.errors import ConfigError

BASE = "name: x\ncommand: [a]\nresources: {nodes: 1}\n"


def of(plan):
    """The section, as it is read."""
    return parse(f"{BASE}plan: {plan}", "run.yaml").plan


def test_everything():
    """Times, sizes and rates have units; a rate of failures is a name or a number."""
    plan = of(
        "{rate: 4.2, work: 12d, save: 2.5s, detect: 8s, restart: 90s, repair: 20h, queue_wait: 0s, availability: 0.999,"
        " state: 1.5T, scratch_bandwidth: 2G/s, shared_bandwidth: 40G/s}"
    )
    assert (plan.rate, plan.work, plan.save, plan.restart) == (4.2, 12 * 86400, 2.5, 90.0)
    assert (plan.state, plan.scratch_bandwidth, plan.queue_wait) == (3 * 2**39, 2 * 2**30, 0.0)
    assert of("{rate: learnt}").rate == "learnt"
    assert of("{rate: 6}").rate == 6.0


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("{rate: awful}", "good, typical, bad, learnt or failures in 1,000 node-days"),
        ("{rate: -1}", "more than 0"),
        ("{rate: 0}", "more than 0"),
        ("{rate: .nan}", "rate"),
        ("{rate: true}", "plan.rate"),
        ("{save: 10}", "a duration needs a unit"),
        ("{save: 0s}", "must be between"),
        ("{work: 1s}", "must be between"),
        ("{availability: 1}", "availability"),
        ("{availability: 99}", "availability"),
        ("{state: 12}", "unit"),
        ("{state: 1TB}", "1T"),
        ("{shared_bandwidth: 1G}", "a rate such as"),
        ("{savee: 1s}", "save"),
        ("[a]", "plan"),
        ('{"<b>\\x1b[1m": 1}', "plan"),
    ],
)  # fmt: skip
def test_mistakes_are_named(plan, said):
    """What is wrong is said, with its line, and nothing of it acts on a terminal."""
    with pytest.raises(ConfigError, match="plan") as caught:
        of(plan)
    assert said in str(caught.value)
    assert "run.yaml:4:" in str(caught.value)


def test_there_and_back():
    """What `config show` writes is read as the same."""
    config = parse(f"{BASE}plan: {{rate: bad, work: 3d, state: 640G, save: 1500ms}}", "run.yaml")
    assert from_resolved(config.resolved()).plan == config.plan
