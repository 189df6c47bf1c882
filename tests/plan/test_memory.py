"""Memory of a rank, against the numbers of the papers that it is from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftslurm.plan.memory import RESERVE, activations, fewest_copies, fits, of_rank
from tests.plan.models import GPT3, ZERO_7B, model

GIB = 2**30


@pytest.mark.parametrize(
    ("zero", "copies", "gigabytes"),
    [(0, 64, 120), (1, 64, 31.4), (2, 64, 16.6), (3, 64, 1.88), (1, 4, 52.5), (2, 16, 21.6), (3, 1024, 0.117)],
)
def test_state_is_that_of_zeros_table(zero, copies, gigabytes):
    """ZeRO's table 1: 7.5B parameters with 16 bytes each, on 4 to 1,024 copies."""
    need = of_rank(model(ZERO_7B, zero=zero), copies)
    assert (need.weights + need.gradients + need.optimizer) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_a_gathered_layer_is_counted_on_top():
    """Weights and gradient of one of 36 layers, with ZeRO 3 alone."""
    assert of_rank(model(ZERO_7B, zero=3), 64).gathered == pytest.approx(7.5e9 / 36 * 4)
    assert of_rank(model(ZERO_7B, zero=2), 64).gathered == 0


def test_hybrid_shards_share_among_themselves():
    """With `shards` more copies do not make a rank's state smaller."""
    few, many = (of_rank(model(ZERO_7B, zero=3, shards=8), copies) for copies in (8, 512))
    assert few == many == of_rank(model(ZERO_7B, zero=3), 8)


def test_activations_are_those_of_the_paper():
    """After arXiv 2205.05198: s b h (34 + 5 a s/h) a layer; of GPT-3's, attention's own are 70 %, full keeps 2 s b h."""
    unit = 2048 * 12288
    assert activations(model()) == pytest.approx(96 * unit * (34 + 80))
    assert 1 - activations(model(recompute="selective")) / activations(model()) == pytest.approx(0.70, abs=0.005)
    assert activations(model(recompute="full")) == pytest.approx(96 * unit * 2 + unit * 114)
    assert activations(model(tensor=8)) == pytest.approx(96 * unit * (10 + 24 / 8 + 80 / 8))
    assert activations(model(weight_bytes=4)) == pytest.approx(2 * activations(model()))


def test_first_stage_of_a_pipeline_holds_as_much_as_no_pipeline():
    """1F1B: a pth of the layers for p micro-batches; GPipe: for all of them."""
    whole = activations(model())
    assert activations(model(pipeline=8, micro_batches=64)) == pytest.approx(whole)
    assert activations(model(pipeline=8, micro_batches=64, schedule="gpipe")) == pytest.approx(8 * whole)
    assert activations(model(pipeline=8, micro_batches=2)) == pytest.approx(whole / 4)


@given(
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 4]),
    st.sampled_from(["none", "selective", "full"]),
    st.integers(1, 2000),
)
def test_fewest_copies_fit_and_one_less_does_not(zero, tensor, pipeline, recompute, gigabytes):
    """What is found fits, no smaller number does, and None means that not even the most do."""
    described = model(GPT3, zero=zero, tensor=tensor, pipeline=pipeline, recompute=recompute)
    found = fewest_copies(described, gigabytes * GIB, 512)
    if found is None:
        assert not fits(described, 512, gigabytes * GIB)
    else:
        assert fits(described, found, gigabytes * GIB)
        assert found == 1 or not fits(described, found - 1, gigabytes * GIB)
        assert of_rank(described, found).total <= gigabytes * GIB * (1 - RESERVE)


def test_no_copies():
    """Nothing to reckon with."""
    assert fewest_copies(model(), 80 * GIB, 0) is None
    with pytest.raises(ValueError, match="0 copies"):
        of_rank(model(), 0)
