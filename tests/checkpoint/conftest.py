from pathlib import Path

import pytest

from tests.checkpoint.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Scratch folders and a store."""
    return World(tmp_path)
