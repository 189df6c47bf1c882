from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.core.diagnosis import Cause, Scope
from ftslurm.errors import DataDamaged
from ftslurm.faults.catalogue import CATALOGUE
from ftslurm.faults.matching import NOTHING, Case, Sign, Weights, findings
from ftslurm.faults.reporting import percent, text
from ftslurm.faults.score import Row, Score, from_plain, quantile, regressions, score
from ftslurm.faults.truth import Injection, Outcome
from ftslurm.insight.incident import Incident, Judgement
from ftslurm.insight.saves import Save

APART_S = 30.0


def injection(number, fault="kill", node="n2", **more):
    """The injection of this number; they come every half a minute."""
    return Injection(
        **{"id": f"i{number}", "fault": fault, "at": number * APART_S, "node": node, "outcome": Outcome.DONE, **more}
    )


def incident(number, cause, after=1.0, **more):
    """An incident that begins so long after the injection of this number, and is over five seconds later."""
    t = number * APART_S + after
    verdict = Judgement(t=t, cause=cause, scope=Scope.RANK, where="", reason="")
    facts = {"decided": t + 1, "stopped": t + 1.5, "launched": t + 2, "mustered": t + 4, "released": t + 5}
    return Incident(number=number, attempt=number, sign=t, noticed=t, by="", judgements=(verdict,), **(facts | more))


def sign(number, slug, after=1.0, node=""):
    """A sentence so long after the injection of this number."""
    return Sign(number * APART_S + after, slug, node)


def of(*cases):
    """The score of these runs."""
    return score("nightly", 1000.0, cases, CATALOGUE)


RESULTS = st.lists(
    st.tuples(st.sampled_from(["kill", "stop", "net-loss"]), st.sampled_from(["right", "wrong", "missed"])), max_size=12
)


@given(drawn=RESULTS)
def test_recall_precision_and_right_class_are_what_was_planted(drawn):
    """Whatever is noticed rightly, wrongly or not at all: the shares are those that a count by hand gives."""
    right = {"kill": Cause.RANK_KILLED, "stop": Cause.PROGRAM_HANG}
    injections, incidents, signs = [], [], []
    for number, (fault, result) in enumerate(drawn):
        injections.append(injection(number, fault))
        cause = right.get(fault) if result == "right" else Cause.OOM_GPU if result == "wrong" else None
        if cause is not None:
            incidents.append(incident(number, cause))
            signs.append(sign(number, cause.value))
    found = of(Case(run="r", injections=tuple(injections), incidents=tuple(incidents), signs=tuple(signs)))
    due = [result for fault, result in drawn if fault != "net-loss"]
    rightly = sum(result == "right" for result in due)
    rightly += sum(result != "wrong" for fault, result in drawn if fault == "net-loss")
    assert found.injected == len(drawn)
    assert found.recall == (pytest.approx(sum(result != "missed" for result in due) / len(due)) if due else None)
    assert found.right == (pytest.approx(rightly / len(drawn)) if drawn else None)
    assert all(row.precision in (None, 1.0) for row in found.rows)
    assert sum(sum(row.values()) for row in found.confusion.values()) == len(drawn)


@pytest.mark.parametrize(
    ("fault", "lasted_s", "said", "due"),
    [
        ("slow", 30.0, False, False),
        ("storage-slow", 20.0, False, False),
        ("disk-full", 20.0, False, True),
        ("slow", 90.0, False, True),
        ("slow", 29.5, True, True),
        ("stop", 30.0, False, True),
        ("kill", None, False, True),
    ],
)
def test_what_had_less_than_its_time_is_nobodys_business(fault, lasted_s, said, due):
    """A slow rank in a run that ends after half a minute: not missed; one that stops the training is, however short."""
    undone = lasted_s if lasted_s is None else lasted_s + 0.2
    signs = (sign(0, "straggler", 29.0),) if said else ()
    (found,) = findings(Case(run="r", injections=(injection(0, fault, undone_at=undone),), signs=signs), CATALOGUE)
    assert (found.due, found.detected) == (due, said)


def test_a_false_alarm_costs_precision():
    """A verdict that no injection explains counts against the fault that it would be right about."""
    false = incident(9, Cause.RANK_KILLED)
    found = of(Case(run="r", injections=(injection(0),), incidents=(incident(0, Cause.RANK_KILLED), false)))
    assert found.rows[0].precision == 0.5
    alone = of(Case(run="r", incidents=(false,)))
    assert (alone.rows, alone.recall) == ((), None)


def test_a_false_alarm_while_another_fault_lasts():
    """A verdict is explained only by a fault of which it may be said."""
    found = of(Case(run="r", injections=(injection(0, "kill"), injection(1, "net-loss")), incidents=(
        incident(0, Cause.RANK_KILLED), incident(1, Cause.RANK_KILLED))))  # fmt: skip
    assert [(row.fault, row.precision, row.right) for row in found.rows] == [("kill", 0.5, 0), ("net-loss", None, 0)]


def test_what_was_said_of_a_fault():
    """The matrix has the right slug where it was said, else the last verdict, else nothing."""
    case = Case(
        run="r",
        injections=(injection(0, "stop"), injection(1, "stop"), injection(2, "stop")),
        incidents=(incident(0, Cause.PROGRAM_HANG), incident(1, Cause.RANK_CRASHED)),
        signs=(sign(0, "program_hang"), sign(1, "rank_crashed")),
    )
    assert of(case).confusion == {"stop": {"program_hang": 1, "rank_crashed": 1, NOTHING: 1}}
    assert (of(case).rows[0].detected, of(case).rows[0].right) == (2, 1)


def test_a_fault_that_stops_nothing():
    """A killed supervisor is noticed by what its successor says, without an incident."""
    case = Case(run="r", injections=(injection(0, "supervisor-kill"),), signs=(sign(0, "supervisor_restarted", 0.5),))
    (found,) = findings(case, CATALOGUE)
    assert (found.detected, found.right, found.times) == (True, True, {"detect": 0.5})


def test_two_faults_at_once():
    """The second one, which strikes while the first is not over, has the same incident, and its own verdict in it."""
    second = injection(1, "node-cut", at=2.0)
    both = incident(0, Cause.RANK_KILLED)
    gone = Judgement(t=4.0, cause=Cause.NODE_UNREACHABLE, scope=Scope.NODE, where="n2", reason="")
    both = replace(both, judgements=(*both.judgements, gone))
    signs = (sign(0, "rank_killed", 1.0), sign(0, "node_unreachable", 4.0, "n2"))
    found = findings(Case(run="r", injections=(injection(0), second), incidents=(both,), signs=signs), CATALOGUE)
    assert [(each.fault, each.right, each.said) for each in found] == [
        ("kill", True, "rank_killed"),
        ("node-cut", True, "node_unreachable"),
    ]


def test_only_a_node_that_was_broken_may_be_given_up():
    """A node that nothing was done to, or only something that costs no node, is given up wrongly; so is one too early."""
    signs = (sign(0, "node_unreachable", 4.0, "n2"), sign(0, "node_frozen", 5.0, "n3"), sign(1, "node_down", 1.0, "n4"))
    done = (injection(0, "node-cut"), injection(0, "kill", "n3"), injection(2, "node-cut", "n4"))
    assert of(Case(run="r", injections=done, signs=signs)).wrong_exclusions == ("n3 (r)", "n4 (r)")


def test_what_was_not_done_is_not_judged():
    """What failed is left out, what may have been done is not counted, and of a double fault only the whole is."""
    case = Case(
        run="r",
        injections=(
            injection(0, outcome=Outcome.FAILED),
            injection(1, outcome=Outcome.INTENDED),
            injection(2, "kill-kill"),
            injection(2, part_of="i2", id="i2a"),
        ),
        incidents=(incident(1, Cause.RANK_KILLED), incident(2, Cause.RANK_KILLED)),
        signs=(sign(1, "rank_killed"), sign(2, "rank_killed")),
    )
    assert [(row.fault, row.injected, row.right, row.precision) for row in of(case).rows] == [("kill-kill", 1, 1, 1.0)]


def test_times_and_what_was_lost():
    """Each part is measured from the injection or from the part before it; lost steps are those after the checkpoint."""
    saved = Save(generation="g", step=40, attempt=0, state="durable")
    hit = incident(0, Cause.RANK_KILLED, restored=3.5, restored_from=saved, lost_s=2.5, launched=3.0, mustered=5.0)
    case = Case(run="r", injections=(injection(0),), incidents=(hit,), signs=(sign(0, "rank_killed"),),
                steps={0: (-20.0, 57), 1: (6.75, 600)})  # fmt: skip
    (found,) = findings(case, CATALOGUE)
    assert found.times == pytest.approx(
        {"detect": 1.0, "decide": 1.0, "stop": 0.5, "launch": 2.0, "restore": 0.5, "released": 6.0, "first_step": 6.75}
    )
    assert (found.lost_s, found.lost_steps) == (2.5, 17)
    assert of(case).times["first_step"] == {"count": 1, "p50": 6.75, "p90": 6.75, "p99": 6.75}


@given(values=st.lists(st.floats(0, 1e6), min_size=1), share=st.integers(1, 100))
def test_quantiles_are_values_that_were_measured(values, share):
    """A quantile is one of the values, and so many percent of all are not above it."""
    ordered = sorted(values)
    found = quantile(ordered, share)
    assert found in ordered
    assert sum(each <= found for each in ordered) * 100 >= share * len(ordered)


GOOD = Score(
    name="nightly",
    began=1000.0,
    runs=2,
    finished=2,
    rows=(Row(fault="kill", injected=50, due=50, detected=50, right=50, precision=1.0),),
    confusion={"kill": {"rank_killed": 50}},
    times={"released": {"count": 50, "p50": 5.0, "p90": 6.0, "p99": 7.0}},
    weights={"equal": 2, "different": 0, "unknown": 0},
)


def test_a_score_survives_json():
    """What is written is what is read; anything else is refused."""
    plain = json.loads(json.dumps(GOOD.plain()))
    assert from_plain(plain) == GOOD
    for wrong in ({}, {**plain, "schema": 2}, {**plain, "rows": [{}]}, {**plain, "rows": 5}, {**plain, "more": 1}, []):
        with pytest.raises(DataDamaged):
            from_plain(wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ()),
        ({"rows": (replace(GOOD.rows[0], detected=49),)}, ()),
        ({"rows": (replace(GOOD.rows[0], detected=48),)}, ("recall is 96.0%, was 100.0%",)),
        ({"rows": (replace(GOOD.rows[0], right=45),)}, ("right class is 90.0%, was 100.0%",)),
        ({"wrong_exclusions": ("n3 (r)",)}, ("1 wrong exclusions, was 0",)),
        ({"weights": {"equal": 1, "different": 1}}, ("1 runs with other weights than undisturbed, was 0",)),
        ({"finished": 1}, ("1 runs that did not finish, was 0",)),
        ({"times": {"released": {"p50": 7.4}}}, ()),
        ({"times": {"released": {"p50": 7.6}}}, ("released takes 7.6 s (median), was 5.0 s",)),
        ({"times": {}}, ()),
    ],
)
def test_a_regression_is_what_is_worse_than_chance(change, said):
    """Shares may fall by one in fifty, medians may rise by half or two seconds; a wrong exclusion is always one more."""
    assert [each for each in regressions(replace(GOOD, **change), GOOD) if "recall" in each or said] == list(said)


def test_the_table():
    """Every fault has its row, and what is not known is a dash."""
    shown = text(of(Case(run="r", injections=(injection(0), injection(1, "net-loss")), incidents=(incident(0, Cause.RANK_KILLED),),
                         signs=(sign(0, "rank_killed"),), ended="finished", weights=Weights.EQUAL)), ())  # fmt: skip
    rows = [line.split("  ") for line in shown.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["kill", "1", "1/1", "100 %", "100 %", "100 %"] in cells
    assert ["net-loss", "1", "not due", "-", "-", "100 %"] in cells
    assert "final weights beside the undisturbed run: equal 1" in shown
    assert [percent(None), percent(0.975), percent(1.0)] == ["-", "97.5 %", "100 %"]


def test_hostile_names_do_not_reach_a_terminal():
    """A node's name with an escape sequence is shown, not sent."""
    bad = "n\x1b[31m3"
    shown = text(of(Case(run="r\n", signs=(Sign(1.0, "node_down", bad),))), ())
    assert "\x1b" not in shown
    assert "n\\x1b[31m3 (r\\n)" in shown
