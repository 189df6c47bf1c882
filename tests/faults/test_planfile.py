from __future__ import annotations

import pytest

from ftslurm.errors import ConfigError
from ftslurm.faults.arrivals import Replay, Weibull
from ftslurm.faults.campaign import known
from ftslurm.faults.planfile import Known, load, on_ill_storage, parse, plain, source_of, weights_of

KNOWN = Known(
    weights={"kill": 3.0, "node-cut": 1.0, "gpu-reset": 1.0, "nan": 0.0}, destructive=frozenset({"gpu-reset"})
)
LEAST = "name: nightly\nconfig: train.yaml\ntargets: {lab: {nodes: 4}}\n"


def complaints(text):
    """What is wrong with a plan, a line each."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "plan.yaml", KNOWN)
    return str(caught.value).splitlines()[1:]


def test_the_least_plan():
    """A name, a configuration and a lab are enough; the rest has defaults, and the usual weights are taken."""
    plan = parse(LEAST, "plan.yaml", KNOWN)
    assert (plan.mtbf, plan.pace, plan.budget.injections, plan.seed) == ((60.0,), "settled", 100, None)
    assert weights_of(plan, KNOWN) == {"kill": 3.0, "node-cut": 1.0}
    assert plain(plan)["mtbf"] == ["1m"]


@pytest.mark.parametrize(
    ("more", "ill"),
    [
        ("", True),
        ("faults: {kill: 1}\n", False),
        ("faults: {kill: 1, disk-full: 1}\n", True),
        ("faults: {kill: 1, disk-full: 0}\n", False),
        ("faults: {kill: 1}\ntargets: {lab: {storage: ill}}\n", True),
        ("faults: {disk-full: 1}\ntargets: {lab: {storage: well}}\n", False),
        ("targets: {runs: [7]}\n", False),
    ],
)
def test_runs_lie_on_storage_that_can_be_made_ill_where_a_fault_of_the_mix_needs_it(more, ill):
    """The usual mix has one; whoever says where they lie has the last word."""
    text = f"name: nightly\nconfig: train.yaml\n{more}{'' if 'targets' in more else 'targets: {lab: {}}'}\n"
    assert on_ill_storage(parse(text, "plan.yaml", known()), known()) == ill


def test_a_sweep():
    """A list of means is a sweep."""
    assert parse(f"{LEAST}mtbf: [15s, 1m]\n", "plan.yaml", KNOWN).mtbf == (15.0, 60.0)


def test_what_destroys_something_has_to_be_allowed_by_name():
    """Without its name under `allow` such a fault is refused; with it, it is drawn."""
    (line,) = complaints(f"{LEAST}faults: {{kill: 1, gpu-reset: 1}}\n")
    assert line == (
        "plan.yaml:4:19: faults.gpu-reset: cannot be undone and costs something: it needs `allow: [gpu-reset]`"
    )
    plan = parse(f"{LEAST}faults: {{kill: 1, gpu-reset: 1}}\nallow: [gpu-reset]\n", "plan.yaml", KNOWN)
    assert weights_of(plan, KNOWN) == {"kill": 1.0, "gpu-reset": 1.0}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("mtfb: 15s\n", "plan.yaml:4:1: mtfb: unknown key; did you mean mtbf?"),
        ("mtbf: 15\n", "plan.yaml:4:1: mtbf: expected a duration such as 30s, or a list of them, got 15"),
        ("mtbf: []\n", "plan.yaml:4:1: mtbf: expected at least one duration"),
        ("mtbf: 1ms\n", "plan.yaml:4:1: mtbf: must be between 1s and 365d"),
        ("faults: {kil: 1}\n", "plan.yaml:4:10: faults.kil: there is no such fault; did you mean kill?"),
        ("faults: {kill: 0}\n", "plan.yaml:4:1: faults: no fault has a weight"),
        ("faults: {kill: -1}\n", "plan.yaml:4:10: faults.kill: must be at least 0.0, got -1"),
        ("allow: [kill]\n", "plan.yaml:4:1: allow: kill needs no allowance; those that do are gpu-reset"),
        ("arrivals: {kind: trace}\n", "plan.yaml:4:1: arrivals: a trace needs both `kind: trace` and `trace: FILE`"),
        ("weights: 'digest'\n", r"plan.yaml:4:1: weights: must have a group named digest, as in DONE (?P<digest>\w+)"),
        ("stop_file: STOP\n", "plan.yaml:4:1: stop_file: must be an absolute path (it starts with /, or with ~/ for your home folder)"),
        ("seed: 1\nseed: 2\n", "plan.yaml:5:1: seed: given twice; the first is on line 4"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(more, line):
    """Each mistake is told with file, line, column and key, and a suggestion where there is one."""
    assert complaints(LEAST + more) == [line]


def test_all_mistakes_at_once():
    """Several mistakes are told together; a plan is for a lab or for runs, not for both or none."""
    lines = complaints("name: x\ntargets: {}\nfaults: {kil: 1}\n")
    assert [line.partition(": ")[2] for line in lines] == [
        "targets: expected either lab or runs",
        "faults.kil: there is no such fault; did you mean kill?",
    ]
    assert "config: required with targets.lab, but missing" in complaints("name: x\ntargets: {lab: {}}\n")[0]


def test_when_faults_come(tmp_path):
    """Poisson unless the plan says otherwise; a trace lies beside the plan, and one that cannot be read is an error."""
    assert source_of(parse(LEAST, "p", KNOWN), 30.0, tmp_path) == Weibull(mtbf_s=30.0, shape=1.0)
    clustered = parse(f"{LEAST}arrivals: {{kind: weibull}}\n", "p", KNOWN)
    assert source_of(clustered, 30.0, tmp_path) == Weibull(mtbf_s=30.0, shape=0.62)
    replayed = parse(f"{LEAST}arrivals: {{kind: trace, trace: t.txt, speed: 60}}\n", "p", KNOWN)
    with pytest.raises(ConfigError, match=r"t\.txt"):
        source_of(replayed, 30.0, tmp_path)
    (tmp_path / "t.txt").write_text("60 kill\n")
    assert source_of(replayed, 30.0, tmp_path) == Replay((1.0,), ("kill",))


def test_a_file_that_is_not_there(tmp_path):
    """It is an error of the user's, in one line."""
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        load(tmp_path / "none.yaml", KNOWN)


def test_the_usual_mix_asks_for_nothing_destructive():
    """By default only faults are drawn that can be undone or are over at once."""
    usual = weights_of(parse(LEAST, "p", known()), known())
    assert usual
    assert not known().destructive & set(usual)
