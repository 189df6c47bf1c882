"""What a node uses of itself, read from files as kernels write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftslurm.runtime import resources
from ftslurm.runtime.resources import RESOURCES, Meter, Roots

NET = "Inter-|   Receive                  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two disks, an interface that is a device, a fabric, and a clock that goes on by a second a look."""
    for folder in ("sys/block/sda", "sys/block/dm-0", "sys/class/net/eth0/device", "proc/net"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path, busy=100, moved=1000)
    moments = iter(range(100))
    monkeypatch.setattr(resources.time, "monotonic", lambda: float(next(moments)))
    monkeypatch.setattr(resources.os, "cpu_count", lambda: 4)
    return tmp_path


def write(root: Path, *, busy: int, moved: int) -> None:
    """Set its counters."""
    (root / "proc/stat").write_text(f"cpu  {busy} 0 0 {1000 - busy} 0 0 0 0 0 0\ncpu0 1 2 3 4\nintr 12\n")
    (root / "proc/loadavg").write_text("2.00 1.00 0.50 1/100 12345\n")
    (root / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 250 kB\nHugePages_Total: 0\n")
    row = f"{moved} 0 {moved} 0 {moved} 0 {2 * moved} 0 0 0 0"
    (root / "proc/diskstats").write_text(f"8 0 sda {row}\n8 1 sda1 {row}\n253 0 dm-0 {row}\n")
    counts = f"{moved} 0 0 0 0 0 0 0 {3 * moved} 0 0 0 0 0 0 0"
    (root / "proc/net/dev").write_text(f"{NET}  lo: {counts}\neth0:{counts}\nveth1: {counts}\n")
    port = root / "sys/class/infiniband/mlx5_0/ports/1/counters"
    port.mkdir(parents=True, exist_ok=True)
    for name in ("port_rcv_data", "port_xmit_data"):
        (port / name).write_text(f"{moved}\n")


def test_rates_are_the_growth_of_counters(machine):
    """Disks count once, the loop and what is no device do not, a share is of the time since the last reading."""
    meter = Meter(None, Roots(machine / "proc", machine / "sys"))
    first = meter.read()
    assert first == {"load": 0.5, "memory": 75.0}
    (machine / "proc/stat").write_text("cpu  400 0 0 1600 0 0 0 0 0 0\n")
    stat = (machine / "proc/stat").read_text()
    write(machine, busy=0, moved=1500)
    (machine / "proc/stat").write_text(stat)
    second = meter.read()
    assert second == {
        "load": 0.5, "memory": 75.0, "cpu": 30.0, "disk_read": 512 * 500, "disk_write": 512 * 1000,
        "net_in": 500, "net_out": 1500, "fabric_in": 2000, "fabric_out": 2000,
    }  # fmt: skip


def test_a_counter_that_fell_has_no_rate(machine):
    """An interface that was made anew has not received less than nothing."""
    meter = Meter(None, Roots(machine / "proc", machine / "sys"))
    meter.read()
    write(machine, busy=100, moved=10)
    assert "net_in" not in meter.read()


def test_a_kernel_that_tells_nothing_is_no_error(tmp_path):
    """What is missing, or looks otherwise, is left out."""
    (tmp_path / "stat").write_text("")
    (tmp_path / "meminfo").write_text("MemTotal:\n")
    meter = Meter(tmp_path / "no such folder", Roots(tmp_path, tmp_path))
    assert meter.read() == {}
    assert meter.read() == {}


def test_this_machine_tells_what_is_known_by_name(tmp_path):
    """Whatever is read here is in the table, and shares are shares."""
    meter = Meter(tmp_path)
    meter.read()
    found = meter.read()
    assert found.keys() <= RESOURCES.keys()
    assert {"memory", "load", "scratch_used"} <= found.keys()
    assert all(0 <= value <= 100 for name, value in found.items() if RESOURCES[name].unit == "%")
