from __future__ import annotations

import pytest

from ftslurm.config import from_resolved, parse
from ftslurm.core.progress import Patience
from ftslurm.errors import ConfigError
from ftslurm.runtime.settings import patience_of, policy_of, progress_of

BASE = "name: a\ncommand: [x]\nresources: {nodes: 1}\nprogress: "


@pytest.mark.parametrize(
    ("text", "patience"),
    [
        ("{}", Patience(collective_s=600.0)),
        ("{hang_after: auto, startup: 5m}", Patience(startup_s=300.0, collective_s=600.0)),
        ("{hang_after: none}", Patience(auto=False, collective_s=600.0)),
        ("{hang_after: 90s}", Patience(auto=False, hang_after_s=90.0, collective_s=600.0)),
        ("{collective_timeout: none}", Patience()),
        ("{collective_timeout: 30m}", Patience(collective_s=1800.0)),
        ('{files: "*.csv"}', Patience(expected=True, collective_s=600.0)),
        (r"{log_pattern: 'step (?P<step>\d+)'}", Patience(expected=True, collective_s=600.0)),
    ],
)
def test_patience(text, patience):
    """What the configuration says of hangs reaches the watch, also through the resolved form."""
    config = parse(BASE + text, "f.yaml")
    assert patience_of(config) == patience
    assert from_resolved(config.resolved()).progress == config.progress


def test_the_rest():
    """Files and the pattern go to the agents, on_nan to the core."""
    config = parse(BASE + r"{files: [a, b], log_pattern: '(?P<step>\d+)', on_nan: rollback}", "f.yaml")
    assert progress_of(config).files == ("a", "b")
    assert progress_of(config).log_pattern == r"(?P<step>\d+)"
    assert policy_of(config).on_nan == "rollback"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{hang_after: 5}", "hang_after: a duration needs a unit; write 5s or 5ms"),
        ("{hang_after: 20d}", "hang_after: must be auto, none, or between 1s and 7d"),
        ("{hang_after: soon}", "hang_after: expected a duration"),
        ("{collective_timeout: auto}", "collective_timeout: expected a duration"),
        ("{collective_timeout: 0s}", "collective_timeout: must be none, or between 1s and 7d"),
        ("{log_pattern: 'step 1'}", "log_pattern: must have a group named step"),
        ("{log_pattern: '(?P<step>'}", "log_pattern: is no regular expression: "),
        ("{on_nan: die}", "on_nan: "),
    ],
)
def test_mistakes(text, problem):
    """Each is named with its key."""
    with pytest.raises(ConfigError, match="1 problem") as found:
        parse(BASE + text, "f.yaml")
    assert f"progress.{problem}" in str(found.value)
