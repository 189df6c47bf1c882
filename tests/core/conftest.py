"""`pytest tests/core --update-scenarios` writes the expected part of every scenario anew: read the diff before it is kept."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one option of these tests."""
    parser.addoption("--update-scenarios", action="store_true", help="write the expected part of tests/scenarios anew")


@pytest.fixture
def updates_scenarios(request: pytest.FixtureRequest) -> bool:
    """True when the expected parts are to be written anew."""
    return bool(request.config.getoption("--update-scenarios", default=False))
