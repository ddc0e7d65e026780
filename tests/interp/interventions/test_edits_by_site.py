"""What every intervention does, on every family, with a cache, and for each row."""

import pytest
import torch
from families import FAMILIES, WINDOW
from models_under_test import (
    HEADS,
    INTERVENTIONS,
    last_softmax,
    logits_of,
    model_under_test,
    value_at,
    vector_for,
)

from interp.doctor.model_under_test import ModelUnderTest
from interp.interventions.edits_by_site import (
    ablate_direction,
    add_vector,
    drop_massive_activation,
    move_to_sink,
    patch,
    perturb_heads,
    scale_heads,
    zero_heads,
)
from interp.model.modules import find_projections
from interp.model.sites import Site

LENGTH = 8  # no longer than the window, so that every layer sees the first token


@pytest.fixture(params=FAMILIES)
def tested(request: pytest.FixtureRequest) -> ModelUnderTest:
    return model_under_test(request.param, LENGTH)


@pytest.fixture
def llama() -> ModelUnderTest:
    return model_under_test("llama", LENGTH)


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def test_scaling_heads_scales_z_alone_and_for_each_row(tested: ModelUnderTest) -> None:
    layer = last_softmax(tested)
    site = Site("z", layer)
    before = value_at(tested, site)
    scales = torch.ones(len(tested.ids), HEADS)
    scales[1, 2], scales[2, 0] = 0.5, 0.0
    with scale_heads(tested.checkpoint, layer, scales):
        after, scaled = value_at(tested, site), logits_of(tested)
    assert torch.equal(after, before * scales[:, None, :, None])
    plain = logits_of(tested)
    assert torch.equal(scaled[[0, 3]], plain[[0, 3]])
    assert not torch.allclose(scaled[[1, 2]], plain[[1, 2]], atol=1e-3)


def test_zeroing_a_head_equals_scaling_its_attention_to_zero(tested: ModelUnderTest) -> None:
    """A[:, h] := 0 means that the head's output before the gate is zero."""
    layer = last_softmax(tested)
    pre_gate = value_at(tested, Site("z_pre_gate", layer))
    pre_gate = pre_gate.index_fill(2, torch.tensor([1, 3]), 0.0)
    with zero_heads(tested.checkpoint, layer, [1, 3]):
        zeroed = logits_of(tested)
    with patch(tested.checkpoint, Site("z_pre_gate", layer), pre_gate):
        assert _close(logits_of(tested), zeroed, tested.tolerance)
    assert not torch.allclose(zeroed, logits_of(tested), atol=1e-3)


def test_moving_to_the_sink_gives_the_first_real_value_before_the_gate(
    tested: ModelUnderTest,
) -> None:
    layer = last_softmax(tested)
    ids, real = tested.padded("left")
    padded = ModelUnderTest(tested.checkpoint, ids, tested.tolerance, tested.seed)
    mask = torch.zeros(len(ids), HEADS, dtype=torch.bool)
    mask[1, 3] = mask[3, 0] = True
    before = value_at(padded, Site("z_pre_gate", layer), real)
    values = value_at(padded, Site("v", layer), real)
    with move_to_sink(tested.checkpoint, layer, mask):
        after = value_at(padded, Site("z_pre_gate", layer), real)
    group = HEADS // tested.checkpoint.anatomy.layers[layer].kv_heads
    for row, head in ((1, 3), (3, 0)):
        first = int(real[row].long().argmax())
        expected = values[row, first, head // group].expand(int(real[row].sum()), -1)
        assert torch.allclose(after[row, real[row], head], expected, atol=1e-6)
    untouched = ~mask[:, None, :, None].expand_as(after)
    assert torch.equal(after[untouched], before[untouched])


def test_a_dormant_head_changes_nothing_when_zeroed(llama: ModelUnderTest) -> None:
    """sinks.md §7.12: A[:, 0] = 1 and v_0 = 0 gives Δ exactly 0, v_0 ≠ 0 does not."""
    layer = 1
    silent = torch.zeros(2, 8)
    for first_value, dormant in ((silent, True), (silent + 1, False)):
        with (
            patch(llama.checkpoint, Site("v", layer), first_value, positions=[0]),
            move_to_sink(llama.checkpoint, layer, [2]),
        ):
            attending = logits_of(llama)
            with zero_heads(llama.checkpoint, layer, [2]):
                zeroed = logits_of(llama)
        assert torch.equal(attending, zeroed) is dormant


def test_ablation_leaves_nothing_along_the_direction(tested: ModelUnderTest) -> None:
    direction = 3 * vector_for(tested)
    sites = [Site("resid_post", i) for i in range(tested.checkpoint.anatomy.n_layers)]
    before = value_at(tested, sites[2])
    with ablate_direction(tested.checkpoint, direction, sites):
        after = value_at(tested, sites[2])
    unit = direction / direction.norm()
    assert (after @ unit).abs().max() < 1e-5 * after.norm(dim=-1).max()
    assert (before @ unit).abs().max() > 1e-2 * before.norm(dim=-1).max()
    with ablate_direction(tested.checkpoint, direction, sites[-1:]):
        once = value_at(tested, sites[-1])
    plain = value_at(tested, sites[-1])
    assert torch.allclose(once, plain - (plain @ unit)[..., None] * unit, atol=1e-4)


def test_adding_acts_by_row_and_position_and_strength_zero_keeps_the_bits(
    tested: ModelUnderTest,
) -> None:
    site, vector = Site("resid_post", 1), vector_for(tested)
    before, plain = value_at(tested, site), logits_of(tested)
    positions = torch.tensor([[2, 3], [2, 3], [0, 5], [7, 1]])
    with add_vector(tested.checkpoint, vector, site, [0.0, 2.0, -1.0, 0.5], positions):
        after, moved = value_at(tested, site), logits_of(tested)
    expected = before.clone()
    for row, strength in ((1, 2.0), (2, -1.0), (3, 0.5)):
        expected[row, positions[row]] += strength * vector
    assert torch.allclose(after, expected, atol=1e-5)
    assert torch.equal(moved[0], plain[0])
    with add_vector(tested.checkpoint, vector, site, 0.0):
        assert torch.equal(logits_of(tested), plain)


def test_patching_moves_one_run_into_another(tested: ModelUnderTest) -> None:
    """All of a layer's stream from row 1 into row 0 gives row 1's logits, at row 0's place."""
    site = Site("resid_post", 2)
    plain, value = logits_of(tested), value_at(tested, site)
    with patch(tested.checkpoint, site, value[[1, 1, 2, 3]]):
        assert _close(logits_of(tested)[0], plain[1], tested.tolerance)
    where = torch.tensor([[5, 2]] * len(tested.ids))
    fresh = torch.randn(len(tested.ids), 2, tested.checkpoint.anatomy.width)
    with patch(tested.checkpoint, site, fresh, where):
        after = value_at(tested, site)
    expected = value.clone()
    expected[:, [5, 2]] = fresh
    assert torch.equal(after, expected)
    with patch(tested.checkpoint, site, fresh[0], [5, 2]):
        assert torch.equal(value_at(tested, site)[3, [5, 2]], fresh[0])


def test_dropping_a_massive_activation_sets_one_coordinate(llama: ModelUnderTest) -> None:
    site = Site("resid_post", 0)
    before = value_at(llama, site)
    with drop_massive_activation(llama.checkpoint, 0, dim=7, position=[0, 4], value=1.5):
        after = value_at(llama, site)
    expected = before.clone()
    expected[:, [0, 4], 7] = 1.5
    assert torch.equal(after, expected)


def test_noise_is_as_large_as_what_the_head_writes(tested: ModelUnderTest) -> None:
    checkpoint, layer = tested.checkpoint, last_softmax(tested)
    plain = _written(tested, layer)
    for head in range(HEADS):
        mask = torch.zeros(len(tested.ids), HEADS, dtype=torch.bool)
        mask[:2, head] = True
        with zero_heads(checkpoint, layer, mask):
            removed = (_written(tested, layer) - plain).norm(dim=-1)
        noised = []
        for seed in (head, head, head + 1):
            with perturb_heads(checkpoint, layer, mask, seed):
                noised.append(_written(tested, layer))
        assert torch.equal(noised[0], noised[1])
        assert not torch.equal(noised[0], noised[2])
        assert torch.allclose((noised[0] - plain).norm(dim=-1), removed, rtol=1e-3, atol=1e-5)
        assert torch.equal(noised[0][2:], plain[2:])
        assert removed[:2].min() > 0


def _written(tested: ModelUnderTest, layer: int) -> torch.Tensor:
    """The output of the output projection, which sandwich norms make differ from `attn_out`."""
    seen: list[torch.Tensor] = []
    module = find_projections(tested.checkpoint.layers[layer]).out
    assert module is not None
    # Registered last, hence it sees what the intervention has made of the output.
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        logits_of(tested)
    finally:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_kv_cache_changes_nothing(family: str, dtype: torch.dtype) -> None:
    tested = model_under_test(family, LENGTH, dtype)
    prompt = 5
    ids, real = tested.padded("left", prompt)
    window = min((x.window for x in tested.checkpoint.anatomy.layers if x.window), default=99)
    for name, open_case in INTERVENTIONS.items():
        # The last two layers of the sliding families see WINDOW tokens, which bounds the sink.
        steps = min(window, WINDOW + 4) - prompt if name == "move_to_sink" else 6
        found = []
        for cached in (False, True):
            with torch.inference_mode(), open_case(tested):
                found.append(tested.greedy(ids, real, steps, cached))
        (slow, scores), (fast, cached_scores) = found
        top = scores.topk(2, -1).values
        clear = (top[..., 0] - top[..., 1]) > tested.tolerance * scores.abs().max()
        counted = clear.long().cumprod(1).bool()
        assert torch.equal(slow[counted], fast[counted]), name
        assert _close(cached_scores[:, 0], scores[:, 0], tested.tolerance), name
        if dtype == torch.float32:
            assert counted.float().mean() > 0.5
            assert torch.equal(slow, fast), name


def test_positions_count_from_the_first_real_token_of_each_row(tested: ModelUnderTest) -> None:
    ids, real = tested.padded("left")
    site, vector = Site("resid_post", 1), 2 * vector_for(tested)
    with add_vector(tested.checkpoint, vector, site, positions=[0, 2]):
        together = logits_of(tested, real, ids)
    for row, kept in enumerate(real.sum(-1).tolist()):
        with add_vector(tested.checkpoint, vector, site, positions=[0, 2]):
            alone = logits_of(tested, None, tested.ids[row : row + 1, :kept])
        assert _close(together[row][real[row]], alone[0], tested.tolerance)


def test_contexts_nest_in_the_order_of_entry(llama: ModelUnderTest) -> None:
    site, one, two = Site("resid_post", 1), vector_for(llama, 1), vector_for(llama, 2)
    before = value_at(llama, site)
    unit = one / one.norm()
    with ablate_direction(llama.checkpoint, one, [site]), add_vector(llama.checkpoint, one, site):
        added_last = value_at(llama, site)
    with (
        add_vector(llama.checkpoint, one + two, site),
        ablate_direction(llama.checkpoint, one, [site]),
    ):
        ablated_last = value_at(llama, site)
    assert torch.allclose(added_last @ unit, one.norm().expand(before.shape[:2]), atol=1e-4)
    assert (ablated_last @ unit).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_next", "gpt_oss"])
def test_transformers_own_generate_sees_the_same_edit(family: str) -> None:
    """`generate` makes its own position ids, from the mask."""
    tested = model_under_test(family, LENGTH)
    checkpoint = tested.checkpoint
    ids, real = tested.padded("left", 5)
    site, vector = Site("resid_post", 1), 3 * vector_for(tested)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    found = []
    for cached in (False, True):
        with (
            add_vector(checkpoint, vector, site, [1.0, 0.0, 2.0, -1.0], range(3, 9)),
            move_to_sink(checkpoint, last_softmax(tested), [1]),
        ):
            found.append(
                checkpoint.model.generate(
                    ids, attention_mask=real.long(), use_cache=cached, **options
                )
            )
    assert torch.equal(*found)
    with (
        torch.inference_mode(),
        add_vector(checkpoint, vector, site, [1.0, 0.0, 2.0, -1.0], range(3, 9)),
        move_to_sink(checkpoint, last_softmax(tested), [1]),
    ):
        own, _ = tested.greedy(ids, real, 1, cached=False)
    assert torch.equal(found[0][:, 5:6], own)
