"""What `ftslurm plan` says of a model and of an earlier run's steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftslurm.config import parse
from ftslurm.core.actions import LaunchAttempt
from ftslurm.core.events import RankExited
from ftslurm.core.working import WorkPaced
from ftslurm.journal import Entry
from ftslurm.plan.advice import advise, asked
from ftslurm.plan.inputs import gather
from ftslurm.plan.measured import paces
from ftslurm.plan.rates import TYPICAL
from ftslurm.plan.smaller import worth_of
from ftslurm.plan.table import document, text
from ftslurm.slurm.inventory import NodeGroup
from tests.slurm.fake import FakeSlurm

MODEL = (
    "{parameters: 175B, layers: 96, hidden: 12288, heads: 96, sequence: 2048, tensor: 8, pipeline: 8,"
    " micro_batches: 64, zero: 1, recompute: selective%s}"
)
SPEEDS = ", gpu_tflops: 150, bandwidth: 20G/s"
NODES = (
    NodeGroup(partition="a\x1b[31m<b>", gpu="a100", gpus=8, idle=300, total=332),
    NodeGroup(partition="new", gpu="h100", gpus=8, idle=600, total=600),
)


def inputs(model=MODEL % SPEEDS, nodes=256, efficiency="", stepped=()):
    """What a forecast of 8 ranks a node reckons with."""
    plan = f"plan: {{model: {model}}}\n" if model else ""
    resources = f"resources: {{nodes: {nodes}, ranks_per_node: 8, time: 1-00:00:00}}\n"
    found = parse(f"name: x\ncommand: [a]\n{resources}{plan}{efficiency}", "x.yaml")
    return replace(gather(found, TYPICAL), stepped=stepped)


def told(known, groups=NODES):
    """The values, by part and key."""
    return document(advise(known, groups))


def test_everything_of_a_model():
    """Memory by what it is for, a step by what it goes into, every kind of nodes, and the choice of each rule."""
    found = told(inputs())
    assert list(found) == ["memory", "step", "fit"]
    memory = {key: cell["value"] for key, cell in found["memory"].items()}
    assert memory["cut"] == "8 x 8 x 32"
    parts = ("weights", "gradients", "optimizer", "activations")
    assert memory["total_bytes"] == pytest.approx(sum(memory[f"{name}_bytes"] for name in parts), abs=2)
    step = {key: cell["value"] for key, cell in found["step"].items()}
    assert step["bubble_share"] == pytest.approx(7 / 71, abs=1e-5)
    assert step["all_reduce_ring_s"] == step["reduce_s"] < step["all_reduce_doubling_s"] < step["all_reduce_tree_s"]
    assert step["step_s"] > step["compute_s"] + step["reduce_s"]
    fit = {key: cell["value"] for key, cell in found["fit"].items()}
    assert fit == {
        "kind_0": None,
        "kind_1": 8,
        **dict.fromkeys(("first_fit", "best_fit", "load_balance"), "new: 8 x h100"),
    }


def test_every_number_has_its_assumption():
    """No row without a reason, in a table that obeys no name of the site's."""
    parts = advise(inputs(), NODES)
    assert all(row.because for part in parts for row in part.rows)
    table = text(parts, 160)
    assert "\x1b" not in table
    assert "a\\x1b[31m<b>: 8 x a100" in table
    assert "40 GiB a rank even with all 332 nodes" in " ".join(table.split())


def test_what_is_not_known_is_said():
    """Without speeds no step, without Slurm no nodes, without a model or a run nothing at all."""
    found = told(inputs(MODEL % ""), "sinfo cannot be run")
    assert found["step"]["step_s"] == {"value": None, "because": "give plan.model.gpu_tflops and plan.model.bandwidth"}
    assert found["fit"] == {"nodes": {"value": "unknown", "because": "sinfo cannot be run"}}
    assert told(inputs(), ())["fit"]["nodes"]["because"] == "sinfo names no partition that is up"
    assert told(inputs(""), ()) == {}
    assert told(inputs(nodes=9))["memory"]["cut"]["value"] == "impossible"
    assert told(inputs(nodes=700))["fit"]["best_fit"]["value"] == "none"


def test_slurm_is_asked_only_for_a_model(tmp_path, monkeypatch):
    """The answer, or Slurm's words for why there is none."""
    fake = FakeSlurm(tmp_path)
    monkeypatch.setattr("os.environ", fake.environ)
    assert asked(inputs("")) == ()
    assert fake.calls == []
    fake.change("inventory", value="m\x1fup\x1f0/9/0/9\x1f8\x1f9\x1fgpu:h100:8\n")
    assert [group.gpu for group in asked(inputs())] == ["h100"]
    fake.fail("sinfo", "down")
    assert "Unable to contact slurm controller" in asked(inputs())


# ---------------------------------------------------------------------------------------------------- smaller worlds


def test_steps_of_an_earlier_run():
    """The law through them, how far it is off, and what it says for this run."""
    found = told(inputs("", nodes=4, stepped=((16, 1.0), (8, 1.9), (16, 1.1), (16, 0.9))))["scaling"]
    assert found["law"]["value"] == "Amdahl"
    assert found["step_of_16_ranks_s"]["value"] == 1.0
    assert found["step_s"]["value"] == pytest.approx(0.55)
    assert found["serial_share"]["value"] == pytest.approx(0.1 / 14.5, abs=1e-5)
    assert found["missed_share"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert told(inputs("", nodes=5, stepped=((16, 1.0), (8, 1.9))))["scaling"]["step_s"]["value"] is None


@pytest.mark.parametrize(
    ("known", "share", "reason"),
    [
        ({"efficiency": "recovery: {efficiency: 0.5}\n"}, 0.5, "recovery.efficiency"),
        ({"stepped": ((2048, 1.0), (2040, 1.2))}, 2048 / 2040 / 1.2, "a step takes 1.2 s against 1 s"),
        ({"model": ""}, 1.0, "assumed to do as much as before"),
        ({"model": MODEL % ""}, 31 * 64 / 2040, "31 of its copies are whole then"),
        ({"model": MODEL % "", "nodes": 8}, 0.0, "0 of its copies are whole then"),
        ({"model": "{parameters: 1B, layers: 2, hidden: 8, heads: 2, sequence: 8}"}, 1.0, "assumed"),
    ],
)
def test_what_one_node_less_is_worth(known, share, reason):
    """The configuration's word, then an earlier run's steps, then the model, then an assumption."""
    given = inputs(**known)
    found = worth_of(given, given.nodes - 1)
    assert found.share == pytest.approx(share)
    assert reason in found.reason


def test_a_model_with_speeds_predicts_more():
    """Fewer copies wait less for one another: a little more than the whole copies' share."""
    known = inputs()
    assert 31 * 64 / 2040 < worth_of(known, 255).share < 31 * 64 / 2040 * 1.01


def test_paces_of_a_journal():
    """A pace belongs to the number of ranks with which its attempt was launched; others are left out."""
    launch = LaunchAttempt(attempt=1, nodes=("n1",), world_size=2)
    events = [
        (RankExited(attempt=0, rank=0, node="n1", code=1), (launch,)),
        (WorkPaced(attempt=0, steps=10, step_s=1.0), ()),
        (WorkPaced(attempt=1, steps=10, step_s=0.5), ()),
        (WorkPaced(attempt=1, steps=10, step_s=0.0), ()),
    ]
    entries = [Entry(n, 0, float(n), "training", event, actions) for n, (event, actions) in enumerate(events)]
    assert list(paces(entries)) == [(2, 0.5)]
