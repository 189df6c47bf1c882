"""What a forecast says of a configuration: its numbers, their sources, and what is not known."""

from __future__ import annotations

import pytest

from ftslurm.config import parse
from ftslurm.core.interval import daly, optimum
from ftslurm.errors import UsageError
from ftslurm.plan.forecast import headline, interval_of, parts
from ftslurm.plan.inputs import Known, assumed, gather, rate_of
from ftslurm.plan.measured import Measured
from ftslurm.plan.rates import BAD, TYPICAL, Rate
from ftslurm.plan.table import document, text

BASE = {
    "name": "name: x",
    "command": "command: [a]",
    "resources": "resources: {nodes: 2048, ranks_per_node: 8, time: 7-00:00:00}",
}


def config(**sections):
    """A configuration of 2,048 nodes with these sections, written as YAML."""
    lines = {**BASE, **{name: f"{name}: {value}" for name, value in sections.items()}}
    return parse("\n".join(lines.values()) + "\n", "x.yaml")


def told(rate=TYPICAL, measured=None, nodes=None, **sections):
    """The values of the forecast, by part and key."""
    found = document(parts(gather(config(**sections), rate, measured, nodes)))
    return {part: {key: cell["value"] for key, cell in rows.items()} for part, rows in found.items()}


# ------------------------------------------------------------------------------------------------------- spares, room


# reliability of the published rates: nodes, rate, mean repair in hours, spares at P99 (section 1.7's arithmetic).
SPARES = [(2048, 3.79, 2.2, 3), (2048, 3.79, 20, 13), (2048, 3.79, 133, 59), (12_500, 6.5, 133, 500)]


@pytest.mark.parametrize(("nodes", "rate", "repair_h", "spares"), SPARES)
def test_spares_are_the_published_ones(nodes, rate, repair_h, spares):
    """The P99 of the nodes in repair, with the mean repair and not the median."""
    wanted = told(Rate(per_1000_node_days=rate, source="x"), nodes=nodes, plan=f"{{repair: {repair_h}h}}")
    assert wanted["spares"]["needed"] == spares


def test_room_and_bandwidth():
    """Kept checkpoints are counted with the one being written; the drain is compared with the time between two."""
    room = told(
        checkpoint="{layout: library, every: {time: 590s}, keep_last: 3, keep_best: {metric: loss, count: 2}}",
        plan="{state: 1T, save: 10s, shared_bandwidth: 8G/s}",
    )["space"]
    assert room["kept"] == 6
    assert room["shared_bytes"] == 6 * 2**40
    assert room["scratch_bytes"] == 4 * 2**40 // 2048
    assert room["needed_bytes_per_s"] == round(2**40 / 600)
    assert room["drain_s"] == 128


def test_drains_that_fall_behind_are_said():
    """A storage that is slower than the checkpoints come is no detail."""
    inputs = gather(
        config(
            checkpoint="{layout: library, every: {time: 1m}}", plan="{state: 10T, save: 10s, shared_bandwidth: 1G/s}"
        ),
        TYPICAL,
    )
    assert "fewer become durable; raise checkpoint.durable_every" in " ".join(text(parts(inputs), 400).split())


@pytest.mark.parametrize(
    ("saved", "most"),
    [
        ("files: a*, rate_limit: 100M/s, drain_width: 4", 4 * 100 * 2**20),
        ("files: a*, rate_limit: 100M/s, drain_width: 1000000", 2048 * 100 * 2**20),
        ("files: a*", None),
    ],
)
def test_what_storage_may_take(saved, most):
    """The configured limit of the nodes that drain at a time, of no more nodes than there are."""
    assert told(checkpoint=f"{{{saved}}}", plan="{state: 1T}")["space"]["allowed_bytes_per_s"] == most


def test_no_checkpoints_no_room():
    """Where none is watched that is said, and no size is asked for."""
    assert told()["space"] == {"none": "none"}


def test_state_from_the_model():
    """A checkpoint holds weights and the optimizer's state of every parameter."""
    model = "{parameters: 1B, layers: 2, hidden: 64, heads: 2, sequence: 8}"
    room = told(checkpoint="{files: a*}", plan=f"{{model: {model}}}")["space"]
    assert room["state_bytes"] == 14 * 10**9


# ------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("saved", "expected", "because"),
    [
        ("{layout: library, every: {time: 1h}}", 3600.0, "checkpoint.every.time"),
        ("{layout: library}", None, "checkpoint.every.time: auto, which is Daly's"),
        ("{layout: library, min_interval: 2h}", 7200.0, "checkpoint.every.time: auto, which is Daly's"),
        ("{layout: library, every: {steps: 10}}", 0.0, "the exact optimum: what the program will do is not known"),
        ("{files: a*}", 0.0, "the exact optimum: what the program will do is not known"),
    ],
)
def test_the_interval_that_a_run_will_have(saved, expected, because):
    """The configuration's where it says one, `auto` as the run would take it, else the best one."""
    inputs = gather(config(checkpoint=saved), TYPICAL)
    found = interval_of(inputs)
    best = {None: daly, 0.0: optimum}.get(expected, lambda *_: expected)(inputs.save.value, inputs.mttf_s)
    assert (found.seconds, found.source) == (best, because)


def test_the_headline_says_what_a_better_interval_would_bring():
    """Where little can be gained, nothing is advised."""
    assert "82." in (said := headline(gather(config(checkpoint="{layout: library, every: {time: 1h}}"), TYPICAL)))
    assert said.endswith("with a save every 1 h 00 min; 93.2 % with one every 7 min 45 s")
    assert headline(gather(config(checkpoint="{files: a*}"), TYPICAL)).endswith("with a save every 7 min 45 s")


# ------------------------------------------------------------------------------------------------------- jobs


def test_how_many_jobs_it_takes():
    """The wall time by what a job has between its restart and its last save; waits are added where they are known."""
    plan = "{work: 12d, save: 10s, restart: 10m, queue_wait: 6h}"
    chain = told(plan=plan, checkpoint="{layout: library}")["deadline"]
    wall = chain["wall_s"]
    assert 12 * 86400 < wall < 15 * 86400
    assert chain["jobs"] == 2
    assert chain["whole_s"] == pytest.approx(wall + 2 * 600 + 60 + 6 * 3600, rel=1e-5)


@pytest.mark.parametrize(
    ("recovery", "plan", "said"),
    [
        ("{}", "{work: 1d}", "it fits"),
        ("{continue: none}", "{work: 30d}", "the run ends with its first job"),
        ("{continue: 'chain:3'}", "{work: 30d}", "too few"),
        ("{continue: requeue}", "{work: 30d}", "goes on by itself"),
        ("{}", "{work: 30d, restart: 7d}", "has no time left after a restart"),
        ("{}", "{}", "plan.work is not given"),
    ],
)
def test_what_follows_a_job_is_said(recovery, plan, said):
    """Whether what is configured suffices for the work."""
    inputs = gather(config(recovery=recovery, plan=plan, checkpoint="{layout: library}"), TYPICAL)
    assert said in " ".join(text(parts(inputs), 400).split())


def test_the_chance_to_be_given_up():
    """A run fails after so many attempts: with twenty of them and twenty failures to come, one run in two does."""
    said = told(plan="{work: 20d, save: 10s}", checkpoint="{layout: library}", nodes=256)["deadline"]
    assert said["failures"] == pytest.approx(20, abs=0.5)
    assert said["given_up_share"] == pytest.approx(0.5, abs=0.07)
    many = told(
        plan="{work: 20d, save: 10s}", recovery="{max_attempts: 1000}", checkpoint="{layout: library}", nodes=256
    )["deadline"]
    assert many["given_up_share"] < 1e-6


def test_what_never_gets_done():
    """A job that fails faster than it restarts is never done, and that is no number."""
    chain = told(Rate(per_1000_node_days=100_000, source="x"), plan="{work: 1d, restart: 7d}")
    assert chain["deadline"]["wall_s"] is None
    assert chain["deadline"]["jobs"] is None
    assert chain["time"]["productive_share"] == 0


# ------------------------------------------------------------------------------------------------------- shrink or wait


def test_shrink_or_wait():
    """They cost the same when the wait is the share of the work that is missing, times the repair."""
    of_four = told(nodes=4, plan="{repair: 8h, queue_wait: 1h}")["shrink"]
    assert (of_four["lost_share"], of_four["break_even_s"], of_four["advice"]) == (0.25, 7200, "wait")
    assert told(nodes=4, plan="{repair: 8h, queue_wait: 3h}")["shrink"]["advice"] == "shrink"
    assert told(nodes=4, plan="{repair: 8h}", recovery="{efficiency: 0.8}")["shrink"]["lost_share"] == 0.4
    assert told(nodes=4)["shrink"]["advice"] == "unknown"
    assert told(nodes=1)["shrink"] == {"only": "wait"}


# ------------------------------------------------------------------------------------------------------- sources


MEASURED = Measured(
    save_s=(2.0, "m"), detect_s=(1.0, "m"), restart_s=(9.0, "m"), interval_s=(60.0, "m"), state_bytes=(7.0, "m")
)


def test_what_is_said_counts_more_than_what_was_measured():
    """The configuration first, then the earlier run; what is left is assumed, and named."""
    given = gather(config(plan="{save: 3s}", checkpoint="{files: a*}"), TYPICAL, MEASURED)
    assert (given.save, given.detect, given.restart) == (
        Known(3.0, "given: plan.save"),
        Known(1.0, "m"),
        Known(9.0, "m"),
    )
    assert (given.interval, given.state_bytes) == (Known(57.0, "m"), Known(7.0, "m"))
    assert assumed(given) == ("repair",)
    assert assumed(gather(config(), TYPICAL)) == ("save", "restart", "repair")


def test_a_save_from_its_size():
    """A node writes its share to scratch; in place the whole goes to shared storage."""
    plan = "{state: 1T, scratch_bandwidth: 1G/s, shared_bandwidth: 10G/s}"
    assert gather(config(plan=plan, checkpoint="{layout: library}"), TYPICAL).save.value == 0.5
    place = "{files: a*, mode: in-place, folder: /data}"
    assert gather(config(plan=plan, checkpoint=place), TYPICAL).save.value == 102.4


@pytest.mark.parametrize(
    ("recovery", "plan", "wait_s", "is_assumed"),
    [
        ("{spares: 2}", "{}", 0.0, False),
        ("{min_nodes: 1}", "{queue_wait: 1h}", 0.0, False),
        ("{min_nodes: 2048}", "{queue_wait: 1h}", 3729.0, False),
        ("{min_nodes: 2048}", "{}", 129.0, True),
        ("{min_nodes: 2048, continue: none}", "{}", 0.0, False),
    ],
)
def test_waiting_for_nodes(recovery, plan, wait_s, is_assumed):
    """None with spares or in a smaller world; else Slurm's own delay and the queue's wait, as far as it is known."""
    wait = gather(config(recovery=recovery, plan=plan), TYPICAL).wait
    assert (wait.value, wait.assumed) == (wait_s, is_assumed)


def test_checkpoints_that_do_not_reshard_make_wait():
    """A world that cannot become smaller waits for a node."""
    saved = "{layout: megatron, resume_args: [--load, '{checkpoint}']}"
    assert gather(config(checkpoint=saved), TYPICAL).wait.value == 129.0


def test_rates():
    """By name, by number, or to be learnt; one of 0 is refused."""
    assert rate_of("bad") is BAD
    assert rate_of(4.5, "--rate").source == "given: --rate"
    assert rate_of("learnt") is None
    with pytest.raises(UsageError, match="nothing ever fails"):
        gather(config(), Rate(per_1000_node_days=0.0, source="x"))


def test_the_interval_of_a_rate_is_that_of_the_forecast():
    """A rate that is known only within bounds gives an ETTR within bounds."""
    time = told(Rate(per_1000_node_days=4.0, low=2.0, high=8.0, source="learnt"))["time"]
    assert time["ettr_low_share"] < time["productive_share"] < time["ettr_high_share"]


def test_every_number_has_its_reason():
    """No row is without one, in no part."""
    inputs = gather(config(plan="{work: 90d, state: 1T}", checkpoint="{layout: library, every: {time: 5m}}"), TYPICAL)
    for part in parts(inputs):
        assert all(row.because for row in part.rows), part.key
        assert len({row.key for row in part.rows}) == len(part.rows)


@pytest.mark.parametrize("width", [80, 120, 300])
def test_the_table_fits(width):
    """Lines are folded to the width; two calls are the same to the byte."""
    inputs = gather(config(plan="{work: 90d, state: 1T}", checkpoint="{layout: library}"), TYPICAL)
    lines = text(parts(inputs), width).splitlines()
    assert all(len(line) <= max(width, 100) for line in lines)
    assert text(parts(inputs), width).splitlines() == lines


def test_names_do_nothing_to_a_terminal():
    """A source with control characters is shown with them made visible."""
    inputs = gather(config(), Rate(per_1000_node_days=1.0, source="evil\x1b[31m\nrow"))
    shown = text(parts(inputs), 120)
    assert "\x1b" not in shown
    assert "evil\\x1b[31m\\nrow" in shown


def test_where_nothing_is_saved_a_failure_loses_all():
    """The whole work is one segment then, and both the headline and a remark say why so little is left."""
    inputs = gather(config(plan="{work: 1d}"), TYPICAL)
    assert interval_of(inputs).seconds == 86400
    assert headline(inputs).startswith(
        "x on 2048 nodes: a failure every 3 h 05 min; 0.3 % of the time trains, and nothing is saved; 9"
    )
    assert inputs.remarks == (
        "nothing is saved, for checkpoint.files is not set: after every failure the work begins anew",
    )
    assert interval_of(gather(config(), TYPICAL)).source.startswith("resources.time: nothing is saved")
