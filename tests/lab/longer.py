"""Tests of which a shorter sibling runs always: with FTSLURM_LONG_TESTS=1 these run, too."""

from __future__ import annotations

import os

import pytest

PATIENT = os.environ.get("FTSLURM_LONG_TESTS") == "1"


def long_test(what: str) -> pytest.MarkDecorator:
    """Skip a test, with its reason, unless somebody has the patience."""
    return pytest.mark.skipif(not PATIENT, reason=f"FTSLURM_LONG_TESTS=1 is not set: {what}")
