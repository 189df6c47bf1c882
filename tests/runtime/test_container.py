"""Ranks in a container: an image with an older Python, neither ftslurm nor its Python in it, and a runtime that cleans."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftslurm.config import Launch, parse
from ftslurm.errors import ConfigError
from ftslurm.paths import RunPaths
from ftslurm.runtime import container, fence, rank
from tests.image import APPTAINER, OLDEST, make_image, version_in
from tests.runtime.conftest import Starter
from tests.runtime.stage import PATIENCE_S, RUN_ID, Agent, is_gone, rank_env, wait_until

PACKAGE = Path(rank.__file__).parents[1]
OLD_SYNTAX = (*(f"runtime/{name}" for name in rank.FILES), "__init__.py", "beats.py", "training.py")
SHOW = "import json, os, sys; print(json.dumps([list(sys.version_info[:2]), dict(os.environ)]))"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an image that works here."""
    made = make_image(tmp_path_factory.mktemp("image") / "old")
    try:
        version_in(made)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no mount namespaces here: {error.stderr.strip()}")
    return made


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """Give a run's folder."""
    (tmp_path / "run").mkdir()
    return RunPaths(tmp_path / "run")


def launch_of(**more: Any) -> Launch:
    """The part of a configuration that starts ranks, with a container."""
    return parse(json.dumps({"name": "a", "command": ["x"], "resources": {"nodes": 2}, "launch": more}), "a").launch


def go_for(launch: Launch, paths: RunPaths, *argv: str, **env: str) -> dict[str, Any]:
    """What the wrapper of rank 3 is told: the agent's word, with the container in it."""
    told = container.order(launch, paths, ())
    marks = {"RANK": "3", "FTSLURM_RUN_ID": RUN_ID, "FTSLURM_ATTEMPT": "2"}
    return container.boxed({"env": {**marks, **env}, "argv": list(argv)}, told)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    fence.fence(RUN_ID, 99, PATIENCE_S)


@pytest.mark.parametrize("name", OLD_SYNTAX)
def test_what_runs_in_a_container_is_python_3_8(name: str) -> None:
    """The wrapper, and what a program imports to beat, can be read by the oldest Python that is promised."""
    ast.parse((PACKAGE / name).read_text(encoding="utf-8"), feature_version=OLDEST)


def test_the_environment_reaches_a_container_that_cleans_it(
    agent: Agent, start: Starter, folder: Path, image: Path, paths: RunPaths
) -> None:
    """--cleanenv keeps out what is the host's and lets in what is the attempt's, the marks for the fence among it."""
    command = [str(APPTAINER), "exec", "--cleanenv", "--bind", "{folders}", str(image)]
    launch = launch_of(container={"command": command, "env": "apptainer"})
    container.prepare(launch, paths)
    start("false", HOSTS_OWN="1")
    agent.expect("register")
    agent.go(**go_for(launch, paths, "python3", "-c", SHOW, MASTER_ADDR="10.0.0.1"), log=str(folder / "rank.log"))
    ended = agent.expect("exit")
    assert ended["code"] == 0, ended["tail"]
    version, environ = json.loads((folder / "rank.log").read_text())
    assert tuple(version) == version_in(image)
    assert "HOSTS_OWN" not in environ
    wanted = {"RANK": "3", "MASTER_ADDR": "10.0.0.1", "FTSLURM_RUN_ID": RUN_ID, "FTSLURM_ATTEMPT": "2"}
    assert {name: environ.get(name) for name in (*wanted, "FTSLURM_RANK")} == {**wanted, "FTSLURM_RANK": "3"}


def test_a_program_in_a_container_gets_signals_and_ends_with_its_tree(
    agent: Agent, start: Starter, folder: Path, image: Path, paths: RunPaths, tmp_path: Path
) -> None:
    """SIGTERM arrives inside; SIGKILL leaves no process of the container behind; set-up lines run outside, before it."""
    launch = launch_of(container={"command": [str(APPTAINER), "exec", "--bind", str(tmp_path), str(image)]})
    code = f"""
import signal, subprocess, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: open({str(tmp_path / "asked")!r}, "w").close())
with open({str(tmp_path / "ready")!r}, "w") as file: file.write(str(child.pid))
while True: time.sleep(0.05)
"""
    start("false")
    agent.expect("register")
    setup = ["[ -x /usr/bin/python3 ]", f"touch {tmp_path / 'outside'}"]
    agent.go(**go_for(launch, paths, "python3", "-c", code), setup=setup, log=str(folder / "rank.log"))
    ready = tmp_path / "ready"
    child = int(wait_until(lambda: ready.exists() and ready.read_text(), "the program runs"))
    assert (tmp_path / "outside").exists()
    agent.say({"t": "signal", "signum": signal.SIGTERM})
    wait_until((tmp_path / "asked").exists, "the signal arrived")
    agent.say({"t": "kill"})
    assert agent.expect("exit")["signal"] == signal.SIGKILL
    wait_until(lambda: is_gone(child), "the child that had a session of its own is gone")


def test_the_wrapper_runs_inside_by_the_containers_own_python(
    agent: Agent, folder: Path, image: Path, paths: RunPaths
) -> None:
    """With `wrapper: inside` the two files in the run's folder are enough for a rank, on a Python from 3.8 on."""
    command = [str(APPTAINER), "exec", "--bind", "{folders}", str(image)]
    launch = launch_of(container={"command": command, "wrapper": "inside"})
    container.prepare(launch, paths)
    words = container.wrapper(launch, paths, (str(folder),))
    with subprocess.Popen([*words, "--", "false"], env=rank_env(folder), stderr=subprocess.PIPE, text=True) as process:
        assert agent.expect("register")["rank"] == 3
        agent.go(**go_for(launch, paths, "python3", "-c", SHOW), log=str(folder / "rank.log"))
        ended = agent.expect("exit")
        assert (ended["code"], process.wait(PATIENCE_S)) == (0, 0), ended["tail"]
    version, environ = json.loads((folder / "rank.log").read_text())
    assert tuple(version) == version_in(image)
    assert environ["PYTHONPATH"].split(":")[0] == str(paths.root / "inside")


def test_a_program_in_a_container_imports_the_library_from_the_runs_folder(image: Path, paths: RunPaths) -> None:
    """`beat` needs a Python from 3.8 on and no package; `attach` needs of the image no package of the supervisor's."""
    launch = launch_of(container={"command": ["x"]})
    container.prepare(launch, paths)
    inside = str(paths.root / "inside")
    beat = "import ftslurm; from ftslurm.training import beat, phase; beat(1); print(ftslurm.__file__)"
    argv = [str(APPTAINER), "exec", "--bind", inside, str(image), "env", f"PYTHONPATH={inside}", "python3", "-c", beat]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith(inside), done.stderr
    attach = (
        "import ftslurm, sys, ftslurm.library.run, ftslurm.checkpoint.arrays; print(ftslurm.__file__, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", attach], env={**os.environ, "PYTHONPATH": inside}, cwd=inside, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(inside), done.stderr
    assert {"click", "pydantic", "yaml", "jinja2", "rich"} & set(done.stdout.split()) == set()


def test_placeholders_name_folders_and_variables(paths: RunPaths) -> None:
    """Folders inside of others are not named twice; podman's volumes and variables become words of their own."""
    launch = launch_of(container={"command": ["podman", "run", "{env}", "{volumes}", "-v{folders}", "img"]})
    told = container.order(launch, paths, ("/tmp/ftslurm-1/r",))
    here = (Path("/scratch/r"), paths.root / "checkpoints", Path())
    found = container.boxed({"env": {"RANK": "0"}, "argv": ["x"]}, told, here)["argv"]
    folders = [str(paths.root), "/tmp/ftslurm-1/r", "/scratch/r"]
    names = ["RANK", "PYTHONPATH", "FTSLURM_RANK"]
    volumes = [f"--volume={each}:{each}" for each in folders]
    assert found == [
        "podman",
        "run",
        *(f"--env={each}" for each in names),
        *volumes,
        f"-v{','.join(folders)}",
        "img",
        "x",
    ]


@pytest.mark.parametrize(
    ("launch", "inside", "prefixes"),
    [
        ({"container": {"command": ["/opt/bin/apptainer", "exec", "a.sif"]}}, False, ("APPTAINERENV_",)),
        ({"container": {"command": ["singularity", "exec", "a.sif"]}}, False, ("SINGULARITYENV_",)),
        ({"container": {"command": ["chroot", "/image"]}}, False, ()),
        ({"container": {"command": ["apptainer", "run"], "env": "inherit"}}, False, ()),
        ({"container": {"command": ["./mine"], "env": "singularity"}}, False, ("SINGULARITYENV_",)),
        ({"container": {}, "srun": ["--container-image=a"]}, True, ()),
        ({"container": {"command": ["chroot", "/image"], "wrapper": "inside"}}, True, ()),
    ],
)
def test_how_a_container_is_entered(launch: dict[str, Any], inside: bool, prefixes: tuple[str, ...]) -> None:
    """The wrapper stays outside unless srun or the user puts it inside; variables are named as the runtime wants it."""
    found = launch_of(**launch)
    assert found.container is not None
    assert (found.container.is_inside(found.srun), found.container.prefixes) == (inside, prefixes)


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ({"container": {}}, "launch.container.command"),
        ({"container": {"wrapper": "outside", "command": ["x"]}, "srun": ["--container-image=a"]}, "cannot be outside"),
        ({"container": {}, "srun": ["--container=a"], "launcher": "mpirun"}, "mpirun"),
    ],
)
def test_a_container_that_nothing_starts_is_refused(launch: dict[str, Any], words: str) -> None:
    """What contradicts the rest of the file is said before anything is submitted."""
    with pytest.raises(ConfigError, match=words):
        launch_of(**launch)


def test_without_a_container_nothing_is_changed(paths: RunPaths) -> None:
    """No files, no variables, no words."""
    launch = launch_of()
    container.prepare(launch, paths)
    assert list(paths.root.iterdir()) == []
    assert container.wrapper(launch, paths, ()) == ()
    assert go_for(launch, paths, "x") == {
        "env": {"RANK": "3", "FTSLURM_RUN_ID": RUN_ID, "FTSLURM_ATTEMPT": "2"},
        "argv": ["x"],
    }
