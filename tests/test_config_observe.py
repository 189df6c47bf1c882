from __future__ import annotations

import json

import pytest

from ftslurm.config import Config, from_resolved, parse
from ftslurm.errors import ConfigError

BASE = "name: x\ncommand: [a]\nresources: {nodes: 1}\n"


def of(observe: str) -> Config:
    """A configuration with this section."""
    return parse(f"{BASE}observe: {observe}", "run.yaml")


def test_what_holds_when_nothing_is_said():
    """A textfile in the run's own folder, and nobody is told."""
    observe = parse(BASE, "run.yaml").observe
    assert (observe.metrics, observe.metrics_dir, observe.notify) == ("textfile", None, ())


def test_the_three_ways():
    """One entry for each, with its occasions and its limit."""
    told = of(
        "{notify: [{on: [failure], exec: [/bin/tell, '--x']}, {on: [finished, failed], webhook: 'https://h.example/t'},"
        " {on: [failed], email: ada@example.org, every: 10m}]}"
    ).observe.notify
    assert [each.plain() for each in told] == [
        {"on": ["failure"], "every_s": 60.0, "exec": ["/bin/tell", "--x"], "webhook": None, "email": None},
        {"on": ["finished", "failed"], "every_s": 60.0, "exec": [], "webhook": "https://h.example/t", "email": None},
        {"on": ["failed"], "every_s": 600.0, "exec": [], "webhook": None, "email": "ada@example.org"},
    ]


@pytest.mark.parametrize(
    ("observe", "said"),
    [
        ("{metrics: statsd}", "textfile"),
        ("{metrics_dir: here}", "absolute"),
        ("{notify: [{on: [failure]}]}", "exactly one of exec, webhook and email"),
        ("{notify: [{on: [failure], exec: [a], email: ada}]}", "exactly one of exec, webhook and email"),
        ("{notify: [{on: [], email: ada}]}", "on"),
        ("{notify: [{on: [lunch], email: ada}]}", "node_excluded"),
        ("{notify: [{on: [failed], webhook: 'ftp://h/x'}]}", "begins with http:// or https://"),
        ("{notify: [{on: [failed], webhook: 'file:///etc/passwd'}]}", "begins with http:// or https://"),
        ("{notify: [{on: [failed], email: '-oQ/tmp'}]}", "one mail address"),
        ("{notify: [{on: [failed], email: 'a@b.example, c@d.example'}]}", "one mail address"),
        ("{notify: [{on: [failed], email: ada, every: fast}]}", "every"),
        ("{notify: [{on: [failed], email: ada, everyy: 1m}]}", "every"),
    ],
)
def test_mistakes_are_named(observe, said):
    """What is wrong is said, with its place."""
    with pytest.raises(ConfigError, match="observe") as caught:
        of(observe)
    assert said in str(caught.value)


def test_a_webhook_is_not_shown():
    """Neither its path, nor a password in it, nor a secret of a program; and what is shown can be read again."""
    config = of(
        "{notify: [{on: [failed], webhook: 'https://ada:5f1@h.example:8443/5f2?k=5f3'},"
        " {on: [failed], exec: [/bin/tell, API_TOKEN=5f4, plain]}]}"
    )
    text = json.dumps(config.resolved())
    assert "5f" not in text
    assert "https://h.example/***" in text
    again = from_resolved(config.resolved())
    assert [each.on for each in again.observe.notify] == [("failed",), ("failed",)]
