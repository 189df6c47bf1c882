from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ftslurm import cli
from ftslurm.checkpoint.frameworks.table import FRAMEWORKS
from tests import pages
from tests.lab.longer import long_test
from tests.slurm.fake import FakeSlurm

EXAMPLES = pages.DOCS / "examples"
PAGES = {
    "hf-trainer": "transformers",
    "lightning": "lightning",
    "fsdp2-dcp": "torch",
    "deepspeed": "deepspeed",
    "megatron": "",
}
"""Each page, and the package that its programs need; Megatron's is no package."""


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> str:
    """Each page's name."""
    return request.param


@pytest.fixture
def place(page: str, tmp_path: Path) -> Path:
    """A folder as the page takes it for granted: the examples, and the files that the page shows whole."""
    folder = tmp_path / "docs" / "examples" / page
    if (EXAMPLES / page).exists():
        shutil.copytree(EXAMPLES / page, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pages.files(f"how-to/{page}.md").items():
        (folder / name).write_text(content)
    return folder


def section(page: str) -> object:
    """The configuration of checkpoints that a page shows."""
    text = (pages.DOCS / "how-to" / f"{page}.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(block)["checkpoint"]


def test_the_page_shows_the_file_that_is_there(page: str, place: Path) -> None:
    """The configuration in the page is that of the file, and its layout is one of the table."""
    (file,) = place.glob("*.yaml")
    assert section(page) == yaml.safe_load(file.read_text())["checkpoint"]
    assert section(page)["layout"] in FRAMEWORKS


def test_what_is_typed_of_ftslurm(
    page: str, place: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The commands of ftslurm in the page do what the page says."""
    monkeypatch.chdir(place)
    typed = [shlex.split(line)[1:] for line in pages.commands(f"how-to/{page}.md") if line.startswith("ftslurm ")]
    assert typed
    for words in typed:
        assert cli.exit_code(words) == 0, capfd.readouterr().err
    assert "#!/bin/bash" in capfd.readouterr().out


@long_test("the pages' programs train, two or three times each")
@pytest.mark.timeout(900)
def test_what_is_typed_of_the_framework(page: str, place: Path) -> None:
    """The programs train, and go on from their checkpoint; what they have saved is complete."""
    package = PAGES[page]
    if not package:
        pytest.skip("Megatron-LM is no package")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: scripts/setup --frameworks")
    lines = [line for line in pages.commands(f"how-to/{page}.md") if not line.startswith("ftslurm ")]
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        cwd=place.parent.parent.parent,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"^done at step (\d+)", done.stdout, re.MULTILINE)[-1] == "6"
    framework = FRAMEWORKS[section(page)["layout"]]
    found = framework.find(place / "checkpoints")
    assert [each.step for each in found] == [2, 4, 6]
    assert [framework.check(place / "checkpoints", each) for each in found] == ["", "", ""]
