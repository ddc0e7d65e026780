"""What must hold of every policy on every family: identity, batch, cache, causality."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES
from policies import (
    CASES,
    PROMPT,
    STEPS,
    gated,
    generate,
    logistic,
    post,
    prompts,
    tiny_model,
    vectors,
)

from interp.doctor.model_under_test import ModelUnderTest, reading
from interp.model.sites import Site
from steering import act_add
from steering.policy.composition import per_row
from steering.runtime.attachment import Attachment
from steering.runtime.gates import LogisticGate
from steering.runtime.runtime import apply
from steering.runtime.span import Span
from steering.runtime.token_positions import Clock


@pytest.fixture(params=FAMILIES)
def p(request: pytest.FixtureRequest) -> ModelUnderTest:
    return tiny_model(request.param)


def _open(attachment: Attachment) -> list[bool]:
    return [decision.open for decision in attachment.decisions]


def test_strength_0_and_a_closed_gate_are_bit_identical(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    plain, tokens = p.logits(ids, real).detach(), generate(p, ids, real)
    shut = LogisticGate(post(1), vectors(p, 1), 0.0, 1e6)
    for name, make in CASES.items():
        policy = make(p)
        with apply(p.checkpoint, policy, 0.0) as attachment, torch.no_grad():
            assert torch.equal(p.logits(ids, real), plain), name
            assert not any(_open(attachment))
            assert torch.equal(generate(p, ids, real), tokens), name
        if name in ("gated", "cast", "soft"):
            closed = replace(policy, gate=shut, span=Span.onward())
            with apply(p.checkpoint, closed), torch.no_grad():
                assert torch.equal(p.logits(ids, real), plain), name
                assert torch.equal(generate(p, ids, real), tokens), name


def test_open_rows_move_and_closed_rows_keep_their_bits(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    with torch.no_grad():
        plain = p.logits(ids, real)
        for name, make in CASES.items():
            with apply(p.checkpoint, make(p)) as attachment:
                steered = p.logits(ids, real)
                is_open = torch.tensor(_open(attachment))
            moved = (steered[:, -1] - plain[:, -1]).abs().amax(-1)
            assert torch.equal(steered[~is_open], plain[~is_open]), name
            if name == "was":  # acts on new tokens alone
                assert torch.equal(steered, plain)
            else:
                assert is_open.any() and bool((moved[is_open] > 1e-4).all()), name
            if make(p).gate.reads and name != "was":
                assert int(is_open.sum()) == 2, name


def test_a_row_in_a_mixed_batch_is_the_row_alone(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    for name in ("gated", "was", "was_plus", "everything"):
        policy = CASES[name](p)
        strength = [1.0, 0.5, 0.0, 2.0]
        with apply(p.checkpoint, policy, strength) as attachment:
            together = generate(p, ids, real)
            decided = _open(attachment)
        for row, tokens in enumerate(together):
            mine = real[row]
            alone = ids[row : row + 1, mine]
            with apply(p.checkpoint, policy, strength[row]) as attachment:
                single = generate(p, alone, torch.ones_like(alone))
                assert _open(attachment) == [decided[row]], name
            assert torch.equal(single[0, alone.shape[1] :], tokens[PROMPT:]), name


def test_the_kv_cache_changes_nothing(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    moved = 0
    plain = generate(p, ids, real)
    for name, make in CASES.items():
        policy = make(p)
        found = []
        for cached in (True, False):
            with apply(p.checkpoint, policy) as attachment:
                found.append((generate(p, ids, real, use_cache=cached), attachment.decisions))
        (fast, decided), (slow, again) = found
        assert torch.equal(fast, slow), name
        assert [d.open for d in decided] == [d.open for d in again]
        moved += not torch.equal(fast, plain)
    assert moved > len(CASES) // 2


def test_static_caches_and_chunked_prompts_give_the_same(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    for name in ("gated", "last", "was", "was_plus"):
        policy = CASES[name](p)
        found = []
        for options in ({}, {"cache_implementation": "static"}, {"prefill_chunk_size": 2}):
            with apply(p.checkpoint, policy):
                found.append(generate(p, ids, real, **options))
        assert torch.equal(found[0], found[1]), name
        assert torch.equal(found[0], found[2]), name


def test_columns_and_positions_say_the_same(
    p: ModelUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside of generate columns are counted; positions are the slow reference."""
    ids, real = prompts(p)
    for name, make in CASES.items():
        policy = make(p)
        with apply(p.checkpoint, policy) as attachment:
            fast, decided = generate(p, ids, real), attachment.decisions
        with monkeypatch.context() as patched:
            known = property(lambda self: False, lambda self, value: None)
            patched.setattr(Clock, "columns_known", known, raising=False)
            with apply(p.checkpoint, policy) as attachment:
                assert torch.equal(generate(p, ids, real), fast), name
                assert attachment.decisions == decided, name


def test_own_loops_need_only_the_lengths_of_the_prompts(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    for name in ("gated", "was_plus", "was"):
        policy = CASES[name](p)
        with apply(p.checkpoint, policy), torch.no_grad():
            no_end = {"eos_token_id": 10**6, "min_new_tokens": 0}
            expected = generate(p, ids, real, **no_end)[:, PROMPT:]
        for cached in (True, False):
            steered = apply(p.checkpoint, policy)
            with steered as attachment, attachment.prompts(real.sum(-1)), torch.no_grad():
                tokens, _ = p.greedy(ids, real, STEPS, cached)
            assert torch.equal(tokens, expected), (name, cached)


def test_forced_replies_score_as_they_were_generated(p: ModelUnderTest) -> None:
    """One pass over prompt and reply, padded on the right, edits what decoding edited."""
    ids, real = prompts(p)
    for name in ("gated", "was", "was_plus"):
        with apply(p.checkpoint, CASES[name](p)) as attachment, torch.no_grad():
            with attachment.prompts(real.sum(-1)):
                tokens, scores = p.greedy(ids, real, 3, cached=True)
            rows = [torch.cat([i[r], t]) for i, r, t in zip(ids, real, tokens, strict=True)]
            width = max(map(len, rows))
            whole = torch.zeros(len(rows), width, dtype=torch.long)
            kept = torch.zeros(len(rows), width, dtype=torch.bool)
            for number, row in enumerate(rows):
                whole[number, : len(row)], kept[number, : len(row)] = row, True
            with attachment.prompts(real.sum(-1)):
                forced = p.logits(whole, kept)
        for number, length in enumerate(real.sum(-1).tolist()):
            found = forced[number, length - 1 : length + 2]
            assert torch.allclose(found, scores[number], atol=1e-3, rtol=1e-4), name


def test_nothing_before_the_decision_token_is_edited(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    sites = [Site("resid_post", layer) for layer in range(p.checkpoint.anatomy.n_layers)]
    with torch.no_grad(), reading(p.checkpoint, sites) as plain:
        p.logits(ids, real)
    for name in ("gated", "cast", "was_plus", "soft"):
        policy = CASES[name](p)
        with apply(p.checkpoint, policy), torch.no_grad():
            with reading(p.checkpoint, sites) as found:
                p.logits(ids, real)
            other = ids.clone()
            other[:, -1] = (other[:, -1] + 1).clamp(3, 96)
            with reading(p.checkpoint, sites) as changed:
                p.logits(other, real)
        for site in sites:
            mine = real[:, :-1]
            assert torch.equal(found[site][:, :-1][mine], plain[site][:, :-1][mine]), name
            assert torch.allclose(
                changed[site][:, :-1][mine], plain[site][:, :-1][mine], atol=1e-5
            ), name


def test_every_selected_layer_is_patched_in_every_step(p: ModelUnderTest) -> None:
    """The published code of WAS patches the last block alone."""
    ids, real = prompts(p)
    layers = range(p.checkpoint.anatomy.n_layers)
    seen: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}

    def note(layer: int) -> object:
        def hook(module: object, args: object, output: object) -> None:
            seen[layer].append(output[0] if isinstance(output, tuple) else output)

        return p.checkpoint.layers[layer].register_forward_hook(hook)

    policy = CASES["was"](p)
    first = [note(layer) for layer in layers]  # before the policy's own hooks
    with apply(p.checkpoint, policy) as attachment, torch.no_grad():
        last = [note(layer) for layer in layers]
        generate(p, ids, real)
        scales = torch.tensor([decision.scale for decision in attachment.decisions])
        weights = attachment._steered[0]._weights
        assert set(attachment.fired.values()) == {1}
    for handle in (*first, *last):
        handle.remove()  # type: ignore[attr-defined]
    assert weights is not None
    for index, layer in enumerate(layers):
        before, after = seen[layer][::2], seen[layer][1::2]
        assert torch.equal(before[0], after[0])  # the prompt
        for one, other in zip(before[1:], after[1:], strict=True):
            added = (scales * weights[:, index])[:, None] * policy.directions[index]
            assert torch.allclose((other - one)[:, 0], added, atol=1e-4)
            assert added.norm(dim=-1).min() > 0.1


def test_each_row_has_its_own_policy(p: ModelUnderTest) -> None:
    ids, real = prompts(p)
    one, other = CASES["actadd"](p), gated(p, logistic(p))
    with apply(p.checkpoint, per_row([one, None, other, one])):
        together = generate(p, ids, real)
    plain = generate(p, ids, real)
    with apply(p.checkpoint, one):
        first = generate(p, ids, real)
    with apply(p.checkpoint, other):
        second = generate(p, ids, real)
    assert torch.equal(together, torch.stack([first[0], plain[1], second[2], first[3]]))


@pytest.mark.parametrize("family", ["llama", "qwen3_next", "gpt_oss", "gemma3"])
def test_bfloat16_is_the_same_with_and_without_a_cache(family: str) -> None:
    half = tiny_model(family, torch.bfloat16)
    ids, real = prompts(half)
    with torch.no_grad():
        plain = half.logits(ids, real)
        for name in ("gated", "was_plus", "angular"):
            policy = CASES[name](half)
            with apply(half.checkpoint, policy) as attachment:
                steered = half.logits(ids, real)
                is_open = torch.tensor(_open(attachment))
            assert torch.equal(steered[~is_open], plain[~is_open])
            assert not torch.equal(steered[is_open], plain[is_open])
            scores = []
            for cached in (True, False):
                with apply(half.checkpoint, policy) as attachment, attachment.prompts(real.sum(-1)):
                    scores.append(half.greedy(ids, real, 2, cached)[1])
            error = (scores[0][:, 0] - scores[1][:, 0]).abs().max()
            assert error <= half.tolerance * scores[0].abs().max()


def test_addition_adds_the_vector(p: ModelUnderTest) -> None:
    """The fused addition against what the residual stream holds."""
    site = Site("resid_post", 1)
    ids, real = prompts(p)
    vector = vectors(p, 1)
    with torch.no_grad(), reading(p.checkpoint, [site]) as plain:
        p.logits(ids, real)
    policy = act_add([site], vector, 2.0)
    steered = apply(p.checkpoint, policy, [1.0, 0.5, 0.0, -1.0])
    with steered, torch.no_grad(), reading(p.checkpoint, [site]) as found:
        p.logits(ids, real)
    expected = plain[site].clone()
    expected[:, -1] += torch.tensor([2.0, 1.0, 0.0, -2.0])[:, None] * vector
    assert torch.allclose(found[site], expected, atol=1e-5)
    assert torch.equal(found[site][:, :-1][real[:, :-1]], plain[site][:, :-1][real[:, :-1]])
