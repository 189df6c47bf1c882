"""docs/how-to/plan.md: its file is right, its commands run, and what it shows is what they print."""

from __future__ import annotations

import shlex

from ftslurm import cli
from tests.insight.journals import make_run
from tests.pages import blocks, commands, files
from tests.plan.test_measured import eventful
from tests.slurm.fake import FakeSlurm

PAGE = "how-to/plan.md"


def test_every_command_of_the_page_runs(root, tmp_path, monkeypatch, capfd):
    """They end with code 0, in their order; the first prints the sentences that the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ftslurm.plan.models.FAILURES", 5)
    (tmp_path / "train.yaml").write_text(files(PAGE)["train.yaml"])
    make_run(root, eventful())
    typed = [shlex.split(line) for line in commands(PAGE)]
    assert len(typed) == 8
    assert cli.exit_code(typed[0][1:]) == 0
    out, err = capfd.readouterr()
    headline, note, _ = (text.strip() for text in blocks(PAGE, "text"))
    assert out.splitlines()[0] == headline
    assert err.strip() == note
    assert [cli.exit_code(words[1:]) for words in typed[1:]] == [0] * (len(typed) - 1)
    assert {path.name for path in tmp_path.glob("ettr.*")} == {"ettr.svg", "ettr.png"}


def test_the_model_of_the_page_fits_as_it_shows(root, tmp_path, monkeypatch, capfd):
    """Its section and nodes of three kinds give the table of the page."""
    fake = FakeSlurm(tmp_path)
    rows = ("a100\x1fup\x1f20/300/12/332\x1f{}gpu:a100_80gb:8", "h100\x1fup\x1f0/600/0/600\x1f{}gpu:h100:8(S:0-1)")
    rows = (*rows, "cpu\x1fup\x1f0/60/0/60\x1f{}(null)")
    fake.change("inventory", value="".join(f"{row}\n" for row in rows).format(*["128\x1f1031000\x1f"] * 3))
    for name in ("PATH", "FAKE_SLURM_STATE"):
        monkeypatch.setenv(name, fake.environ[name])
    section = next(text for text in blocks(PAGE, "yaml") if text.startswith("plan:"))
    head = "name: gpt\ncommand: [a]\nresources: {nodes: 256, ranks_per_node: 8, time: 1-00:00:00}\n"
    (tmp_path / "model.yaml").write_text(head + section)
    assert cli.exit_code(["plan", str(tmp_path / "model.yaml")]) == 0
    out, _ = capfd.readouterr()
    shown = out[out.index("WHERE IT FITS") :]
    assert " ".join(shown.split()) == " ".join(blocks(PAGE, "text")[2].split())


def test_the_file_of_the_page_can_be_submitted(tmp_path, monkeypatch, capfd):
    """It is a whole configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(files(PAGE)["train.yaml"])
    assert cli.exit_code(["config", "check", "train.yaml"]) == 0
    capfd.readouterr()
