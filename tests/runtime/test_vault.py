from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ftslurm.core.retention import Rules
from ftslurm.runtime.keeper import Post
from ftslurm.runtime.spec import AgentSpec, CheckpointSpec
from ftslurm.runtime.vault import Vault
from tests.runtime.vaults import WHO


class Orders:
    """An agent's threads, of which each begins when the test says so."""

    def __init__(self) -> None:
        self.waiting = []

    def later(self, work, message) -> None:
        self.waiting.append((work, message))

    def run_backwards(self) -> None:
        for work, message in reversed(self.waiting):
            work(message)


@pytest.mark.parametrize("layout", ["files", "library"])
def test_the_newest_attempt_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Two attempts are announced in a row, and the threads come to it in the other order: the second is watched for."""
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    saved = CheckpointSpec(
        files=("step_*.pt",) if layout == "files" else (),
        scratch=str(tmp_path),
        shared=str(tmp_path / "shared"),
        drain="auto",
        drain_to="",
        rate_limit=0.0,
        settle_s=1.0,
        done_marker="",
        save_on="none",
        layout=layout,
        keep=Rules(),
    )
    spec = AgentSpec(
        run_id="r",
        run_dir=str(tmp_path),
        host="h",
        port=1,
        epoch=1,
        interface="auto",
        ports=(1, 2),
        interval_s=1,
        deadman_s=1,
        checkpoint=saved,
    )
    post = Post(spec=spec, node="n1", who=WHO, report=lambda _: None, ranks=lambda _: (), peers=dict)
    vault, orders = Vault(post, SimpleNamespace(), lambda: 1, tmp_path), Orders()
    vault.start()
    for attempt in (0, 1):
        vault.begin({"attempt": attempt, "world": 2}, orders.later)
        vault.expect({"attempt": attempt, "ranks": {str(attempt): {}}}, orders.later)
    orders.run_backwards()
    assert vault.keeper._attempt == 1
    vault.begin({"attempt": 0, "world": 2}, orders.later)
    orders.waiting[-1][0](orders.waiting[-1][1])
    assert vault.keeper._attempt == 1
    vault.keeper.end(1, clean=True)
    vault.stop(5.0)
