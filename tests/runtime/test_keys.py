"""Keys and folders that nobody else may read, write or exchange."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftslurm.errors import CannotCreate, Refused, ServiceUnavailable
from ftslurm.runtime.keys import new_key, private_folder, read_key


def test_a_key_is_private_and_created_once(tmp_path: Path) -> None:
    """32 bytes, mode 0600 whatever the umask, never overwritten."""
    path = tmp_path / "key"
    before = os.umask(0o777)
    try:
        key = new_key(path)
    finally:
        os.umask(before)
    assert len(key) == 32
    assert path.stat().st_mode & 0o7777 == 0o600
    assert read_key(path) == key
    with pytest.raises(CannotCreate):
        new_key(path)
    with pytest.raises(CannotCreate):
        new_key(tmp_path / "missing" / "key")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o640),
        lambda path: path.chmod(0o606),
        lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")),
        lambda path: path.write_bytes(b"short"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path, 0o600)),
    ],
    ids=["group", "others", "link", "short", "folder", "fifo"],
)
def test_a_key_that_others_could_know_is_refused(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """Mode, kind and size are checked on what was opened, and nothing waits for a pipe's other end."""
    path = tmp_path / "key"
    new_key(path)
    spoil(path)
    with pytest.raises(Refused):
        read_key(path)


def test_a_missing_key_is_said(tmp_path: Path) -> None:
    """The run's folder may be away: that is the cluster's fault, not a refusal."""
    with pytest.raises(ServiceUnavailable, match="No such file"):
        read_key(tmp_path / "key")


def test_a_private_folder_is_ours_alone(tmp_path: Path) -> None:
    """Created with its parents as 0700, accepted again, and usable."""
    path = tmp_path / "ftslurm-0" / "run"
    assert private_folder(path) == path == private_folder(path)
    assert path.stat().st_mode & 0o7777 == path.parent.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path.mkdir(), path.chmod(0o750)),
        lambda path: (path.with_name("real").mkdir(mode=0o700), path.symlink_to("real")),
        lambda path: path.write_text(""),
        lambda path: path.parent.chmod(0o777),
    ],
    ids=["open to a group", "a link", "a file", "in a folder that everybody may change"],
)
def test_a_folder_that_is_not_private_is_refused(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """Nothing is put into a place that somebody else has prepared."""
    path = tmp_path / "box" / "run"
    path.parent.mkdir()
    spoil(path)
    with pytest.raises(Refused):
        private_folder(path)


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    """Somebody else's folder under our name, as anyone can make in /tmp."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(path, 65534, 65534)
    with pytest.raises(Refused):
        private_folder(path)
