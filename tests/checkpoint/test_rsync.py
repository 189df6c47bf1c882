from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ftslurm.checkpoint import rsync
from ftslurm.checkpoint.commit import commit_durable
from ftslurm.checkpoint.drain import Target, Transport, drain_part, send_commit
from ftslurm.checkpoint.store import verify
from ftslurm.errors import UsageError
from tests.checkpoint.parts import NAME, SIZE, part, target
from tests.checkpoint.world import World, some_bytes


@pytest.mark.parametrize(
    ("text", "address", "path"),
    [
        ("dtn01:/data/x", "dtn01", "/data/x"),
        ("me@dtn01.site.org:/data/a b", "me@dtn01.site.org", "/data/a b"),
        ("/plain/path", None, None),
        ("/odd:name/x", None, None),
        ("relative/x", None, None),
    ],
)
def test_where_a_destination_points(text: str, address: str | None, path: str | None) -> None:
    """A host has a colon before the first slash."""
    remote = rsync.Remote.parse(text)
    assert (remote.address, remote.path) == (address, path) if remote else address is None


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=x:/y", "host:relative", "host::module/x", "rsync://host/x", "a b:/x", "ho`st:/x", "host;id:/x",
        "@host:/x", "host:", ":/x", "-e@host:/x", "host:/x\n", "$(id):/x",
    ],
)  # fmt: skip
def test_hosts_that_are_no_plain_names_are_refused(text: str) -> None:
    """Nothing that ssh or rsync could take for an option, a daemon or a command gets near them."""
    with pytest.raises(UsageError):
        rsync.Remote.parse(text)


def test_only_allowed_hosts_are_sent_to(world: World) -> None:
    """With a list, a host outside of it is refused before anything runs."""
    report = drain_part(part(world).folder, "n1", Target(destination="evil:/x", allowed_hosts=("good",), patience_s=0))
    assert "'evil' is not among the hosts allowed: good" in report.error


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` that runs the remote command here, as sshd would: through a shell. Writes down its arguments."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" >>"${0%/*}/asked"\n'
        'while [[ $1 == -* ]]; do [[ $1 == -l ]] && shift; shift; done\nshift\nexec sh -c "$*"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program.parent / "asked"


def test_another_host_gets_data_then_manifest_then_commit(world: World, fake_ssh: Path, tmp_path: Path) -> None:
    """Over ssh the same tree arrives; a name with spaces and quotes stays one name; ssh is told never to ask."""
    name = "step_5/a b'c$(id).pt"
    captured = part(world, {name: some_bytes(SIZE, 3)})
    assert drain_part(captured.folder, "n1", target(world)).ok
    commit = world.commit(5, {"n1": captured})
    commit_durable(world.store, commit, patience_s=0)
    there = tmp_path / "other host" / "store"
    there.mkdir(parents=True)
    remote = Target(destination=f"dtn01:{there}", patience_s=0)
    report = drain_part(captured.folder, "n1", remote)
    assert report.error == ""
    assert (there / "gen/000000005-0000/d" / name).read_bytes() == some_bytes(SIZE, 3)
    send_commit(world.store, commit.generation, remote)
    assert verify(there, commit.generation).ok
    assert "-oBatchMode=yes" in fake_ssh.read_text().splitlines()


def test_bytes_that_rot_on_the_other_host_are_sent_again(world: World, fake_ssh: Path, tmp_path: Path) -> None:
    """Equal size and time do not pass for equal content."""
    captured = part(world)
    remote = Target(destination=f"dtn01:{tmp_path}/there", patience_s=0)
    assert drain_part(captured.folder, "n1", remote).ok
    path = tmp_path / "there/gen/000000005-0000/d" / NAME
    when = path.stat()
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert drain_part(captured.folder, "n1", remote).ok
    assert path.read_bytes() == some_bytes(SIZE, 5)


def test_a_host_that_does_not_answer_is_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ssh's own words end up in the report, and the part may be tried again."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'ssh: connect to host dtn01 port 22: No route to host' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    report = drain_part(part(world).folder, "n1", Target(destination="dtn01:/x", patience_s=0))
    assert "No route to host" in report.error
    assert not report.damaged


def test_rsync_is_ended_when_the_drain_is_stopped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hanging rsync does not outlive the drain."""
    program = tmp_path / "bin" / "rsync"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n[ $1 = --version ] && exit 0\necho $$ >{tmp_path}/pid\nexec sleep 3600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    rsync.version.cache_clear()
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    report = drain_part(part(world).folder, "n1", target(world, transport=Transport.RSYNC), stop=stop)
    rsync.version.cache_clear()
    assert report.error == "stopped on request"
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_without_rsync_the_hint_is_to_copy(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without rsync says so in one line."""
    monkeypatch.setenv("PATH", str(tmp_path))
    rsync.version.cache_clear()
    report = drain_part(part(world).folder, "n1", target(world, transport=Transport.RSYNC, patience_s=60.0))
    rsync.version.cache_clear()
    assert "rsync does not answer" in report.error


def test_what_rsync_brought_is_read_back(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An rsync that says 0 and has written other bytes is found out."""
    program = tmp_path / "bin" / "rsync"
    program.parent.mkdir()
    there = world.paths.generation("000000005-0000").data / NAME
    program.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && exit 0\nmkdir -p {there.parent}\nhead -c {SIZE} /dev/zero >{there}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    rsync.version.cache_clear()
    report = drain_part(part(world).folder, "n1", target(world, transport=Transport.RSYNC))
    rsync.version.cache_clear()
    assert report.error.startswith("after rsync")
    assert not (world.paths.generation("000000005-0000").manifests / "n1.json").exists()


def test_old_and_new_rsyncs_are_told_what_they_know(world: World) -> None:
    """--fsync came with 3.2.4; ssh is named only for another host."""
    sending = rsync.Sending(folder=world.root, names=("a",), to="/x", size_bytes=1)
    away = rsync.Sending(folder=world.root, names=("a",), to="h:/x", size_bytes=1, rate_limit=1)
    assert "--fsync" in sending.options((3, 2, 7))
    assert "--fsync" not in sending.options((3, 2, 3))
    assert not any(option.startswith("--rsh") for option in sending.options((3, 2, 7)))
    assert {"--bwlimit=1", f"--rsh={rsync.SSH}"} <= set(away.options((3, 2, 7)))
    assert "--inplace" not in " ".join(away.options((3, 2, 7)))
