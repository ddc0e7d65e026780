"""What every intervention does, on every family, with a cache, and for each row."""

import pytest
import torch
from families import FAMILIES, WINDOW
from patients import (
    HEADS,
    INTERVENTIONS,
    last_softmax,
    logits_of,
    patient_of,
    value_at,
    vector_for,
)

from interp.doctor.model_under_test import Patient
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
def patient(request: pytest.FixtureRequest) -> Patient:
    return patient_of(request.param, LENGTH)


@pytest.fixture
def llama() -> Patient:
    return patient_of("llama", LENGTH)


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def test_scaling_heads_scales_z_alone_and_for_each_row(patient: Patient) -> None:
    layer = last_softmax(patient)
    site = Site("z", layer)
    before = value_at(patient, site)
    scales = torch.ones(len(patient.ids), HEADS)
    scales[1, 2], scales[2, 0] = 0.5, 0.0
    with scale_heads(patient.checkpoint, layer, scales):
        after, scaled = value_at(patient, site), logits_of(patient)
    assert torch.equal(after, before * scales[:, None, :, None])
    plain = logits_of(patient)
    assert torch.equal(scaled[[0, 3]], plain[[0, 3]])
    assert not torch.allclose(scaled[[1, 2]], plain[[1, 2]], atol=1e-3)


def test_zeroing_a_head_equals_scaling_its_attention_to_zero(patient: Patient) -> None:
    """A[:, h] := 0 means that the head's output before the gate is zero."""
    layer = last_softmax(patient)
    pre_gate = value_at(patient, Site("z_pre_gate", layer))
    pre_gate = pre_gate.index_fill(2, torch.tensor([1, 3]), 0.0)
    with zero_heads(patient.checkpoint, layer, [1, 3]):
        zeroed = logits_of(patient)
    with patch(patient.checkpoint, Site("z_pre_gate", layer), pre_gate):
        assert _close(logits_of(patient), zeroed, patient.tolerance)
    assert not torch.allclose(zeroed, logits_of(patient), atol=1e-3)


def test_moving_to_the_sink_gives_the_first_real_value_before_the_gate(patient: Patient) -> None:
    layer = last_softmax(patient)
    ids, real = patient.padded("left")
    padded = Patient(patient.checkpoint, ids, patient.tolerance, patient.seed)
    mask = torch.zeros(len(ids), HEADS, dtype=torch.bool)
    mask[1, 3] = mask[3, 0] = True
    before = value_at(padded, Site("z_pre_gate", layer), real)
    values = value_at(padded, Site("v", layer), real)
    with move_to_sink(patient.checkpoint, layer, mask):
        after = value_at(padded, Site("z_pre_gate", layer), real)
    group = HEADS // patient.checkpoint.anatomy.layers[layer].kv_heads
    for row, head in ((1, 3), (3, 0)):
        first = int(real[row].long().argmax())
        expected = values[row, first, head // group].expand(int(real[row].sum()), -1)
        assert torch.allclose(after[row, real[row], head], expected, atol=1e-6)
    untouched = ~mask[:, None, :, None].expand_as(after)
    assert torch.equal(after[untouched], before[untouched])


def test_a_dormant_head_changes_nothing_when_zeroed(llama: Patient) -> None:
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


def test_ablation_leaves_nothing_along_the_direction(patient: Patient) -> None:
    direction = 3 * vector_for(patient)
    sites = [Site("resid_post", i) for i in range(patient.checkpoint.anatomy.n_layers)]
    before = value_at(patient, sites[2])
    with ablate_direction(patient.checkpoint, direction, sites):
        after = value_at(patient, sites[2])
    unit = direction / direction.norm()
    assert (after @ unit).abs().max() < 1e-5 * after.norm(dim=-1).max()
    assert (before @ unit).abs().max() > 1e-2 * before.norm(dim=-1).max()
    with ablate_direction(patient.checkpoint, direction, sites[-1:]):
        once = value_at(patient, sites[-1])
    plain = value_at(patient, sites[-1])
    assert torch.allclose(once, plain - (plain @ unit)[..., None] * unit, atol=1e-4)


def test_adding_acts_by_row_and_position_and_strength_zero_keeps_the_bits(
    patient: Patient,
) -> None:
    site, vector = Site("resid_post", 1), vector_for(patient)
    before, plain = value_at(patient, site), logits_of(patient)
    positions = torch.tensor([[2, 3], [2, 3], [0, 5], [7, 1]])
    with add_vector(patient.checkpoint, vector, site, [0.0, 2.0, -1.0, 0.5], positions):
        after, moved = value_at(patient, site), logits_of(patient)
    expected = before.clone()
    for row, strength in ((1, 2.0), (2, -1.0), (3, 0.5)):
        expected[row, positions[row]] += strength * vector
    assert torch.allclose(after, expected, atol=1e-5)
    assert torch.equal(moved[0], plain[0])
    with add_vector(patient.checkpoint, vector, site, 0.0):
        assert torch.equal(logits_of(patient), plain)


def test_patching_moves_one_run_into_another(patient: Patient) -> None:
    """All of a layer's stream from row 1 into row 0 gives row 1's logits, at row 0's place."""
    site = Site("resid_post", 2)
    plain, value = logits_of(patient), value_at(patient, site)
    with patch(patient.checkpoint, site, value[[1, 1, 2, 3]]):
        assert _close(logits_of(patient)[0], plain[1], patient.tolerance)
    where = torch.tensor([[5, 2]] * len(patient.ids))
    fresh = torch.randn(len(patient.ids), 2, patient.checkpoint.anatomy.width)
    with patch(patient.checkpoint, site, fresh, where):
        after = value_at(patient, site)
    expected = value.clone()
    expected[:, [5, 2]] = fresh
    assert torch.equal(after, expected)
    with patch(patient.checkpoint, site, fresh[0], [5, 2]):
        assert torch.equal(value_at(patient, site)[3, [5, 2]], fresh[0])


def test_dropping_a_massive_activation_sets_one_coordinate(llama: Patient) -> None:
    site = Site("resid_post", 0)
    before = value_at(llama, site)
    with drop_massive_activation(llama.checkpoint, 0, dim=7, position=[0, 4], value=1.5):
        after = value_at(llama, site)
    expected = before.clone()
    expected[:, [0, 4], 7] = 1.5
    assert torch.equal(after, expected)


def test_noise_is_as_large_as_what_the_head_writes(patient: Patient) -> None:
    checkpoint, layer = patient.checkpoint, last_softmax(patient)
    plain = _written(patient, layer)
    for head in range(HEADS):
        mask = torch.zeros(len(patient.ids), HEADS, dtype=torch.bool)
        mask[:2, head] = True
        with zero_heads(checkpoint, layer, mask):
            removed = (_written(patient, layer) - plain).norm(dim=-1)
        noised = []
        for seed in (head, head, head + 1):
            with perturb_heads(checkpoint, layer, mask, seed):
                noised.append(_written(patient, layer))
        assert torch.equal(noised[0], noised[1])
        assert not torch.equal(noised[0], noised[2])
        assert torch.allclose((noised[0] - plain).norm(dim=-1), removed, rtol=1e-3, atol=1e-5)
        assert torch.equal(noised[0][2:], plain[2:])
        assert removed[:2].min() > 0


def _written(patient: Patient, layer: int) -> torch.Tensor:
    """The output of the output projection, which sandwich norms make differ from `attn_out`."""
    seen: list[torch.Tensor] = []
    module = find_projections(patient.checkpoint.layers[layer]).out
    assert module is not None
    # Registered last, hence it sees what the intervention has made of the output.
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        logits_of(patient)
    finally:
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_kv_cache_changes_nothing(family: str, dtype: torch.dtype) -> None:
    patient = patient_of(family, LENGTH, dtype)
    prompt = 5
    ids, real = patient.padded("left", prompt)
    window = min((x.window for x in patient.checkpoint.anatomy.layers if x.window), default=99)
    for name, open_case in INTERVENTIONS.items():
        # The last two layers of the sliding families see WINDOW tokens, which bounds the sink.
        steps = min(window, WINDOW + 4) - prompt if name == "move_to_sink" else 6
        found = []
        for cached in (False, True):
            with torch.inference_mode(), open_case(patient):
                found.append(patient.greedy(ids, real, steps, cached))
        (slow, scores), (fast, cached_scores) = found
        top = scores.topk(2, -1).values
        clear = (top[..., 0] - top[..., 1]) > patient.tolerance * scores.abs().max()
        counted = clear.long().cumprod(1).bool()
        assert torch.equal(slow[counted], fast[counted]), name
        assert _close(cached_scores[:, 0], scores[:, 0], patient.tolerance), name
        if dtype == torch.float32:
            assert counted.float().mean() > 0.5
            assert torch.equal(slow, fast), name


def test_positions_count_from_the_first_real_token_of_each_row(patient: Patient) -> None:
    ids, real = patient.padded("left")
    site, vector = Site("resid_post", 1), 2 * vector_for(patient)
    with add_vector(patient.checkpoint, vector, site, positions=[0, 2]):
        together = logits_of(patient, real, ids)
    for row, kept in enumerate(real.sum(-1).tolist()):
        with add_vector(patient.checkpoint, vector, site, positions=[0, 2]):
            alone = logits_of(patient, None, patient.ids[row : row + 1, :kept])
        assert _close(together[row][real[row]], alone[0], patient.tolerance)


def test_contexts_nest_in_the_order_of_entry(llama: Patient) -> None:
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
    patient = patient_of(family, LENGTH)
    checkpoint = patient.checkpoint
    ids, real = patient.padded("left", 5)
    site, vector = Site("resid_post", 1), 3 * vector_for(patient)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    found = []
    for cached in (False, True):
        with (
            add_vector(checkpoint, vector, site, [1.0, 0.0, 2.0, -1.0], range(3, 9)),
            move_to_sink(checkpoint, last_softmax(patient), [1]),
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
        move_to_sink(checkpoint, last_softmax(patient), [1]),
    ):
        own, _ = patient.greedy(ids, real, 1, cached=False)
    assert torch.equal(found[0][:, 5:6], own)
