from __future__ import annotations

import pytest

from ftslurm.core.events import Finding, Outcome, Witness
from ftslurm.core.verdict import Verdict
from ftslurm.insight.alternatives import Evidence, of_node
from tests.insight.journals import DEAD, FROZEN, UNDECIDED, WELL, findings


def evidence(words, *, wants_hard=False) -> Evidence:
    """What n3 is judged by."""
    return Evidence(node="n3", findings=findings(words), silent_s=3.1, wants_hard=wants_hard)


def turned(words, witness: Witness, outcome: Outcome):
    """The same words, but for one."""
    return {**words, witness: (outcome, "")}


DOWN = {**DEAD, Witness.SLURM: (Outcome.FAILED, "DOWN*")}


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (DEAD, ("one of ssh, srun answering would have kept n3",
                "peer not answering would have left it open: n3 would have been asked about again",
                "one of ping, tcp answering would have made it node_frozen, and n3 lost all the same")),
        (FROZEN, ("one of ssh, srun answering would have kept n3",
                  "one of slurm, peer not answering would have left it open: n3 would have been asked about again")),
        (DOWN, ("slurm answering would have made it node_unreachable, and n3 lost all the same",)),
        (WELL, ()),
        (UNDECIDED, ()),
    ],
)  # fmt: skip
def test_the_words_that_would_have_changed_a_verdict(words, sentences):
    """Each kind of loss names the single answers that would have led elsewhere, and only a loss does."""
    assert of_node(evidence(words)) == sentences


@pytest.mark.parametrize("words", [DEAD, FROZEN, DOWN])
@pytest.mark.parametrize("wants_hard", [False, True])
def test_what_is_said_to_have_kept_a_node_does_keep_it(words, wants_hard):
    """A witness is named with 'kept' exactly if its answer alone makes the rules find the node well."""
    given = evidence(words, wants_hard=wants_hard)
    if given.judged(given.findings).verdict is not Verdict.LOST:
        assert of_node(given) == ()
        return
    kept = [sentence for sentence in of_node(given) if "would have kept" in sentence]
    named = {witness for witness in Witness for sentence in kept if f" {witness}" in f" {sentence}".replace(",", " ")}
    for witness in (Witness.PING, Witness.TCP, Witness.SSH, Witness.SRUN, Witness.SLURM):
        verdict = given.judged(findings(turned(words, witness, Outcome.OK))).verdict
        assert (verdict is Verdict.WELL) == (witness in named), witness


def test_a_verdict_that_no_single_answer_changes_says_so():
    """Where Slurm and the witnesses agree on the same cause, nothing single would have helped."""
    slurm_only = (Finding(witness=Witness.SLURM, outcome=Outcome.FAILED, detail="DOWN"),)
    told = of_node(Evidence(node="n3", findings=slurm_only, silent_s=0.0, wants_hard=False))
    assert told == ("slurm answering would have left it open: n3 would have been asked about again",)
