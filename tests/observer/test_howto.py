from __future__ import annotations

import re

from ftslurm.config import parse
from ftslurm.insight.walltime import Category
from ftslurm.observe_section import Observe, Occasion
from ftslurm.observer.families import families
from tests.conftest import ROOT
from tests.observer.worlds import counted, eventful, live

PAGE = (ROOT / "docs/how-to/metrics.md").read_text()


def rows(head: str) -> list[str]:
    """The first cells of the table with this head."""
    table = PAGE.partition(f"| {head} |")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_the_configurations_are_right():
    """Every YAML of the page that has a section `observe` can be read as it stands."""
    blocks = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if text.startswith("observe:")]
    assert len(blocks) == 3
    for text in blocks:
        assert parse(f"name: x\ncommand: [a]\nresources: {{nodes: 1}}\n{text}", "run.yaml").observe != Observe()


def test_the_table_has_every_metric_with_its_labels():
    """What is exposed is told, and what is told is exposed."""
    told = dict(re.findall(r"`(ftslurm_\w+)(?:\{([\w,]+)\})?`", "\n".join(rows("metric"))))
    tale = eventful()
    found = {}
    for family in families(counted(tale), live(tale), tale.now):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = [key for key in family.samples[0].labels if key not in ("run", "le")]
        found[name] = ",".join(labels)
    assert told == found


def test_the_tables_of_occasions_and_categories():
    """Both are whole."""
    occasions = re.findall(r"`(\w+)`", "\n".join(rows("occasion")))
    assert set(occasions) == set(Occasion.__args__)
    assert rows("category") == list(Category)
