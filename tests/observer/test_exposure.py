from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.core import GaugeMetricFamily

from ftslurm.observer.exposure import Place, exposure_of
from tests.observer.worlds import run_with


def one() -> list:
    """One metric."""
    return [GaugeMetricFamily("ftslurm_x", "X.", value=1)]


def test_the_file_is_whole_and_goes_with_the_run(tmp_path):
    """The textfile is replaced as a whole, for the user alone, ends in .prom, and nothing of it stays."""
    paths = run_with(tmp_path)
    exposure = exposure_of("textfile", paths, None, one)
    exposure.refresh()
    exposure.refresh()
    assert "ftslurm_x 1.0" in paths.metrics.read_text()
    assert paths.metrics.stat().st_mode & 0o777 == 0o600
    before = set(paths.root.iterdir())
    exposure.remove()
    exposure.remove()
    assert before - set(paths.root.iterdir()) == {paths.metrics}


def test_a_folder_for_all_runs_is_read_by_others(tmp_path):
    """node_exporter is another user; two runs do not meet there."""
    folder = tmp_path / "textfiles"
    folder.mkdir()
    one_run, other = run_with(tmp_path), run_with(tmp_path)
    for paths in (one_run, other):
        exposure_of("textfile", paths, str(folder), one).refresh()
    assert {path.name for path in folder.iterdir()} == {f"ftslurm-{paths.run_id}.prom" for paths in (one_run, other)}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())


def test_no_name_is_followed(tmp_path):
    """Where somebody has put a link in the way, the link is replaced, and what it leads to stays."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    link = tmp_path / "metrics.prom"
    link.symlink_to(victim)
    Place(link, 0o600).write(b"new")
    assert (victim.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def test_a_folder_that_is_full_keeps_what_was_there(tmp_path):
    """A write that fails leaves the old file, and no part of a new one."""
    place = Place(Path("/dev/full/x"), 0o600)
    with pytest.raises(OSError, match="Not a directory"):
        place.write(b"x")
    assert exposure_of("none", run_with(tmp_path), None, one) is None


def test_http_is_on_loopback_and_says_where(tmp_path):
    """The port is any; the file for file_sd names it, and both go with the run."""
    paths = run_with(tmp_path)
    exposure = exposure_of("http", paths, None, one)
    exposure.refresh()
    (target,) = json.loads(paths.metrics_address.read_bytes())
    (address,) = target["targets"]
    assert address.startswith("127.0.0.1:")
    assert target["labels"] == {"ftslurm_run": paths.run_id}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/metrics", timeout=10) as answer:
        assert b"ftslurm_x 1.0" in answer.read()
    exposure.remove()
    assert not paths.metrics_address.exists()
    with pytest.raises(OSError, match="refused"):
        opener.open(f"http://{address}/metrics", timeout=10)
