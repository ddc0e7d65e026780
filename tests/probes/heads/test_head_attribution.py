"""The parts of a probe's logit, against running the model without the part."""

import numpy as np
import pytest
import torch
from families import FAMILIES, LAYERS, VOCAB, tiny

import interp
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.doctor.model_under_test import reading
from interp.errors import InputError, UnsupportedModelError
from interp.interventions.edits_by_site import zero_heads
from interp.model.sites import Site
from probes.heads.head_attribution import Contributions, direct_parts, head_contributions
from probes.heads.linear_reading import FrozenNorm

# Where attention has biases, or layers without softmax attention, `other` is not zero.
WITH_OTHER = {"gpt2", "gpt_neox", "gpt_oss", "qwen3_next", "qwen3_5"}


def rows_of_ids(count: int = 3) -> list[Row]:
    generator = torch.Generator().manual_seed(1)
    lengths = [9, 6, 11][:count]
    return [
        Row(7 - i, tuple(torch.randint(3, VOCAB, (n,), generator=generator).tolist()), "")
        for i, n in enumerate(lengths)
    ]


def parts(family: str) -> tuple[Checkpoint, Contributions, np.ndarray]:
    checkpoint = interp.load(tiny(family))
    coef = np.random.default_rng(0).normal(size=checkpoint.anatomy.width)
    return checkpoint, head_contributions(checkpoint, rows_of_ids(), coef, 0.7), coef


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_add_up_to_the_logit_that_the_model_itself_gives(family: str) -> None:
    checkpoint, found, coef = parts(family)
    for place, row in enumerate(rows_of_ids()):
        with torch.no_grad():
            out = checkpoint.decoder(torch.tensor([row.ids])).last_hidden_state[0, -1]
        logit = float(out.double().numpy() @ coef) + 0.7
        assert found.logit[place] == pytest.approx(logit, rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(found.total, found.logit, rtol=1e-4, atol=1e-3)
    if family not in WITH_OTHER:
        assert np.abs(found.other).max() < 1e-3 * max(1.0, np.abs(found.heads).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_before_a_layer_add_up_to_the_projection_at_its_input(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    direction = np.random.default_rng(0).normal(size=checkpoint.anatomy.width)
    found = direct_parts(checkpoint, rows_of_ids(), direction, position=-2)
    layer = 2
    for place, row in enumerate(rows_of_ids()):
        with torch.no_grad(), reading(checkpoint, [Site("resid_pre", layer)]) as seen:
            checkpoint.model(torch.tensor([row.ids]))
        wanted = float(seen[Site("resid_pre", layer)][0, -2].double().numpy() @ direction)
        before = [part[place, :layer] for part in (found.heads, found.mlp, found.other)]
        total = float(found.embedding[place]) + sum(float(np.nansum(part)) for part in before)
        assert total == pytest.approx(wanted, rel=1e-4, abs=1e-3)


def test_the_heads_are_what_zeroing_their_output_takes_away_in_the_last_layer() -> None:
    """In the last layer of a model without an MLP behind it nothing acts through later parts."""
    checkpoint = interp.load(tiny("llama"))
    with torch.no_grad():
        checkpoint.layers[LAYERS - 1].mlp.down_proj.weight.zero_()  # type: ignore[union-attr]
    coef = np.random.default_rng(0).normal(size=checkpoint.anatomy.width)
    row = rows_of_ids(1)[0]
    found = head_contributions(checkpoint, [row], coef, 0.0)
    norm = checkpoint.final_norm
    states: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        checkpoint.decoder(ids)
        with zero_heads(checkpoint, LAYERS - 1, [2]):
            checkpoint.decoder(ids)
    handle.remove()
    whole, less = (state[0, -1].double() for state in states)
    gain = norm.weight.detach().double()  # type: ignore[union-attr, operator]
    scale = 1 / torch.sqrt(whole.square().mean() + norm.variance_epsilon)  # type: ignore[operator]
    expected = float(((whole - less) * gain * scale).numpy() @ coef)
    assert found.heads[0, LAYERS - 1, 2] == pytest.approx(expected, rel=1e-4)


def test_another_position_is_the_end_of_a_shorter_row() -> None:
    checkpoint, _, coef = parts("qwen3")
    row = rows_of_ids(1)[0]
    shorter = Row(0, row.ids[:-3], "")
    back = head_contributions(checkpoint, [row], coef, 0.0, position=-4)
    end = head_contributions(checkpoint, [shorter], coef, 0.0)
    np.testing.assert_allclose(back.heads, end.heads, rtol=1e-4, atol=1e-5)


def test_batches_and_order_make_no_difference() -> None:
    checkpoint, found, coef = parts("llama")
    rows = rows_of_ids()[::-1]
    again = head_contributions(checkpoint, rows, coef, 0.7, batch_tokens=8)
    np.testing.assert_allclose(again.heads[::-1], found.heads, rtol=1e-3, atol=1e-5)


def test_the_most_negative_head_ranks_first() -> None:
    _, found, _ = parts("llama")
    table = found.ranked()
    assert table["rank"].to_list() == list(range(1, len(table) + 1))
    first = table.iloc[0]
    mean = found.heads.mean(0)
    assert mean[int(first["layer"]), int(first["head"])] == np.nanmin(mean)


def test_half_precision_has_its_tolerance() -> None:
    checkpoint = interp.load(tiny("gemma2", torch.bfloat16))
    coef = np.random.default_rng(0).normal(size=checkpoint.anatomy.width)
    found = head_contributions(checkpoint, rows_of_ids(), coef, 0.0)
    assert np.abs(found.total - found.logit).max() < 0.1 * np.abs(found.logit).max() + 0.1


def test_what_cannot_be_read_is_refused() -> None:
    checkpoint = interp.load(tiny("llama"))
    coef = np.zeros(checkpoint.anatomy.width)
    with pytest.raises(InputError, match="reads 3 numbers"):
        head_contributions(checkpoint, rows_of_ids(), coef[:3], 0.0)
    for position in (0, -7):
        with pytest.raises(InputError, match="position"):
            head_contributions(checkpoint, rows_of_ids(), coef, 0.0, position=position)
    with pytest.raises(UnsupportedModelError, match="neither an RMSNorm nor a LayerNorm"):
        x = torch.randn(2, 32, dtype=torch.float64)
        FrozenNorm.of(torch.nn.LayerNorm(32), 32).scale(x, torch.tanh(x))
