"""Cgroups of both versions, on a tree that behaves as the kernel's does: cgroups(7), Documentation/admin-guide/cgroup-v2."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ftslurm.errors import ServiceUnavailable
from ftslurm.faults import confine
from ftslurm.faults.deeds import Confine

MEMORY, CPU = Confine(memory_bytes=2**20 + 1), Confine(cpu_share=0.2)
FILES = {
    "v2": ("cgroup.procs", "memory.max", "memory.swap.max", "cpu.max"),
    "memory": ("cgroup.procs", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "cpu": ("cgroup.procs", "cpu.cfs_period_us", "cpu.cfs_quota_us"),
}


class Group(type(Path())):
    """A folder of a fake cgroup file system: what is made in it has files, and a process is in one group at a time."""

    lacking: frozenset[str] = frozenset()

    def _kinds(self):
        return FILES.get(next((part for part in self.parts if part in FILES), ""))

    def mkdir(self, *args, **kwargs):
        super().mkdir(*args, **kwargs)
        for name in self._kinds():
            if name not in self.lacking:
                Path(self, name).write_text("")

    def rmdir(self):
        if Path(self, "cgroup.procs").read_text().split():
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        for entry in Path(self).iterdir():
            entry.unlink()
        super().rmdir()

    def write_text(self, text, *args, **kwargs):
        if not self.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        if self.name == "cgroup.subtree_control":
            known = Path(self.parent, "cgroup.controllers").read_text().split()
            if text[1:] not in known:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
            text = " ".join([*self.read_text().split(), text[1:]])
        elif self.name == "cgroup.procs":
            (root,) = (folder for folder in self.parents if folder.name in FILES)
            for procs in Path(root).rglob("cgroup.procs"):
                procs.write_text("\n".join(pid for pid in procs.read_text().split() if pid != text))
            text = "\n".join([*self.read_text().split(), text])
        return super().write_text(text, *args, **kwargs)


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """Says which process is in which group."""
    monkeypatch.setattr(confine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(confine, "_use", lambda pids: 0.5)

    def runs(pid, groups):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/cgroup").write_text(groups)

    return runs


@pytest.fixture
def unified(tmp_path, monkeypatch, proc):
    """Version 2, as systemd leaves it: a job's processes in a slice, memory not yet on for the root's children."""
    root = Group(tmp_path / "v2")
    root.mkdir()
    (root / "cgroup.controllers").touch()
    Path(root, "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    Path(root, "cgroup.subtree_control").write_text("cpu pids\n")
    (root / "slurm").mkdir()
    for pid in (11, 12):
        proc(pid, "0::/slurm\n")
        (root / "slurm" / "cgroup.procs").write_text(str(pid))
    monkeypatch.setattr(confine, "ROOT", root)
    return root


@pytest.fixture
def split(tmp_path, monkeypatch, proc):
    """Version 1: a hierarchy for each controller."""
    monkeypatch.setattr(confine, "ROOT", Group(tmp_path))
    for name in ("memory", "cpu"):
        Group(tmp_path / name).mkdir()
        Group(tmp_path / name / "slurm").mkdir()
    for pid in (11, 12):
        proc(pid, "5:memory:/slurm\n4:cpu,cpuacct:/slurm\n0::/\n")
        for name in ("memory", "cpu"):
            Group(tmp_path / name / "slurm" / "cgroup.procs").write_text(str(pid))
    return Group(tmp_path)


def inside(group):
    """The processes in a group."""
    return (group / "cgroup.procs").read_text().split()


@pytest.mark.parametrize(
    ("deed", "limits"),
    [
        (MEMORY, {"memory.max": str(2**20 + 1), "memory.swap.max": "0", "cpu.max": ""}),
        (CPU, {"cpu.max": "50000 500000", "memory.max": ""}),
    ],
    ids=["memory", "cpu"],
)
def test_version_2_confines_and_lets_go(unified, deed, limits):
    """Both processes are in one new group with the limits of the deed; afterwards they are where they were."""
    group = confine.confine([11, 12], deed)
    assert (group.path.parent, inside(group.path), inside(unified / "slurm")) == (unified, ["11", "12"], [])
    assert {name: (group.path / name).read_text() for name in limits} == limits
    assert "memory" in (unified / "cgroup.subtree_control").read_text().split() or deed is CPU
    group.undo()
    assert (group.path.exists(), inside(unified / "slurm")) == (False, ["11", "12"])


def test_version_2_without_swap_accounting(unified, monkeypatch):
    """A kernel without it has no such file; the limit of memory is set nevertheless."""
    monkeypatch.setattr(Group, "lacking", frozenset({"memory.swap.max"}))
    group = confine.confine([11], MEMORY)
    assert (group.path / "memory.max").read_text() == str(2**20 + 1)
    group.undo()


@pytest.mark.parametrize(
    ("deed", "hierarchy", "limits"),
    [
        (MEMORY, "memory", {"memory.limit_in_bytes": str(2**20 + 1), "memory.memsw.limit_in_bytes": str(2**20 + 1)}),
        (CPU, "cpu", {"cpu.cfs_period_us": "500000", "cpu.cfs_quota_us": "50000"}),
    ],
    ids=["memory", "cpu"],
)
def test_version_1_confines_and_lets_go(split, deed, hierarchy, limits):
    """The same in the hierarchy of its controller."""
    group = confine.confine([11, 12], deed)
    assert (group.path.parent, inside(group.path)) == (split / hierarchy, ["11", "12"])
    assert {name: (group.path / name).read_text() for name in limits} == limits
    group.undo()
    assert (group.path.exists(), inside(split / hierarchy / "slurm")) == (False, ["11", "12"])


def test_a_controller_that_is_not_delegated_is_said(unified):
    """As in a container: nothing is left behind."""
    (unified / "cgroup.controllers").touch()
    Path(unified, "cgroup.controllers").write_text("cpu pids\n")
    with pytest.raises(ServiceUnavailable, match="no memory cgroup can be made"):
        confine.confine([11], MEMORY)
    assert inside(unified / "slurm") == ["11", "12"]


def test_a_limit_that_is_refused_leaves_nothing(unified, monkeypatch):
    """The group is gone, and the processes are where they were."""
    monkeypatch.setattr(Group, "lacking", frozenset({"memory.max"}))
    with pytest.raises(ServiceUnavailable, match="no memory limit"):
        confine.confine([11], MEMORY)
    assert [path.name for path in unified.iterdir() if path.is_dir()] == ["slurm"]
    assert inside(unified / "slurm") == ["11", "12"]
