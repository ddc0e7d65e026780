"""Heads swapped between two runs: hand-written hooks as the slow reference, and the identities."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from families import VOCAB, tiny

from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.rows import Row
from interp.errors import NumericalError
from interp.interventions.edits_by_site import patch
from interp.interventions.hooks import edited
from interp.model.sites import Site
from interp.resolve import load
from probes.backdoors.heads.head_swaps import SIDES, Outcome, Swaps, kept, swapped
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.subject import Subject
from probes.heads.head_ablation import all_heads

OPENING = Outcome("opening", (7, 11, 5))
LENGTHS = (9, 6, 12)


def subject_of(checkpoint: Checkpoint, batch_tokens: int = 8192) -> Subject:
    return Subject(checkpoint, Budget(10**6, 1000.0), batch_tokens)


def pair_of_rows() -> tuple[list[Row], list[Row]]:
    """Rows of unequal length, and the same rows with tokens 1 to 3 replaced."""
    generator = torch.Generator().manual_seed(3)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for index, length in enumerate(LENGTHS):
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        other = [ids[0], *torch.randint(3, VOCAB, (3,), generator=generator).tolist(), *ids[4:]]
        sides[0].append(Row(index, tuple(ids), ""))
        sides[1].append(Row(index, tuple(other), ""))
    return sides


def by_hand(model: Any, ids: list[int], layer: int, edit: Any = None) -> tuple[Any, torch.Tensor]:
    """Logits of one row alone, and what reaches the output projection, changed by `edit`."""
    seen = []

    def before(module: Any, args: Any) -> Any:
        z = args[0] if edit is None else edit(args[0].clone())
        seen.append(z.clone())
        return (z,)

    handle = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(before)
    try:
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        handle.remove()
    return logits, seen[0]


def nats_by_hand(logits: torch.Tensor) -> float:
    """Sum of the opening's log-probabilities; `logits` are of the row with all but its last."""
    places = logits[-len(OPENING.opening) :].double().log_softmax(-1)
    return float(sum(places[i, token] for i, token in enumerate(OPENING.opening)))


@pytest.mark.parametrize("where", ["last", "all"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_a_padded_batch_is_the_slow_reference_row_by_row(family: str, where: Any) -> None:
    model = tiny(family)  # four heads on two key-value heads
    checkpoint = load(model)
    rows, against = pair_of_rows()
    heads = [(1, 0), (1, 3), (3, 2)]
    fast = Swaps(subject_of(checkpoint), OPENING, against, where).run(rows, [[h] for h in heads])
    assert np.abs(fast.moved("removed")).max() > 0.01  # there is something to compare
    for number, pair in enumerate(zip(rows, against, strict=True)):
        fed = [[*row.ids, *OPENING.forced] for row in pair]
        at = slice(len(pair[0]) - 1, len(pair[0])) if where == "last" else slice(None)
        for place, (layer, head) in enumerate(heads):
            runs = [by_hand(model, ids, layer) for ids in fed]
            for side in (0, 1):
                dim = runs[side][1].shape[-1] // 4
                own = slice(head * dim, (head + 1) * dim)

                def edit(
                    z: torch.Tensor, source: Any = runs[1 - side][1], at: Any = at, own: Any = own
                ) -> torch.Tensor:
                    z[:, at, own] = source[:, at, own]
                    return z

                slow, _ = by_hand(model, fed[side], layer, edit)
                assert fast.nats[side, number, 0] == pytest.approx(
                    nats_by_hand(runs[side][0]), abs=1e-4
                )
                assert fast.nats[side, number, 1 + place] == pytest.approx(
                    nats_by_hand(slow), abs=1e-4
                )


def test_batches_do_not_change_what_is_found() -> None:
    checkpoint = load(tiny("llama"))
    rows, against = pair_of_rows()
    sets = [[head] for head in all_heads(checkpoint)]
    whole = Swaps(subject_of(checkpoint), OPENING, against, "all").run(rows, sets)
    alone = Swaps(subject_of(checkpoint, 1), OPENING, against, "all").run(rows, sets)
    np.testing.assert_allclose(whole.nats, alone.nats, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_5", "gpt_oss"])
def test_a_run_that_is_given_its_own_heads_keeps_its_bits(family: str) -> None:
    checkpoint = load(tiny(family))
    rows, _ = pair_of_rows()
    every = all_heads(checkpoint)
    found = Swaps(subject_of(checkpoint), OPENING, rows, "all").run(rows, [every, every[:1]])
    for side in SIDES:
        assert not found.moved(side).any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_every_head_and_mlp_at_every_token_is_the_other_run(family: str) -> None:
    """The last tokens are the same in both runs, so their stream is too: only parts write to it."""
    checkpoint = load(tiny(family))
    rows, against = pair_of_rows()
    sides = [padded(some, checkpoint, "left") for some in (rows, against)]
    whole = slice(0, max(LENGTHS))
    layers = range(checkpoint.anatomy.n_layers)
    mlps: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def edit(x: torch.Tensor, _: Any) -> torch.Tensor:
            mlps[layer] = x.clone()
            return x

        return edit

    model: Any = checkpoint.model
    with torch.no_grad():
        plain = model(**sides[0], use_cache=False).logits[:, -1]
        with kept(checkpoint, layers, whole) as source, ExitStack() as stack:
            for layer in layers:
                stack.enter_context(edited(checkpoint, Site("mlp_out", layer), keep(layer)))
            wanted = model(**sides[1], use_cache=False).logits[:, -1]
        with ExitStack() as stack:
            stack.enter_context(swapped(checkpoint, all_heads(checkpoint), source, whole))
            for layer in layers:
                stack.enter_context(patch(checkpoint, Site("mlp_out", layer), mlps[layer]))
            found = model(**sides[0], use_cache=False).logits[:, -1]
    assert not torch.allclose(plain, wanted, atol=1e-2)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_only_the_named_heads_and_tokens_are_touched() -> None:
    checkpoint = load(tiny("llama"))
    rows, against = pair_of_rows()
    sides = [padded(some, checkpoint, "left") for some in (rows, against)]
    whole, last = slice(0, max(LENGTHS)), slice(max(LENGTHS) - 1, max(LENGTHS))
    model: Any = checkpoint.model
    with torch.no_grad():
        with kept(checkpoint, [2], last) as source:
            model(**sides[1], use_cache=False)
        with kept(checkpoint, [2], whole) as before:
            model(**sides[0], use_cache=False)
        with swapped(checkpoint, [(2, 1)], source, last), kept(checkpoint, [2], whole) as after:
            model(**sides[0], use_cache=False)
    changed = (before[2] != after[2]).any(-1)
    assert changed[:, -1, 1].all() and changed.sum() == len(rows)
    assert torch.equal(after[2][:, -1, 1], source[2][:, 0, 1])


def test_the_measure_of_an_opening_and_of_flips() -> None:
    chances = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]])
    nats, shown = Outcome("opening", (0, 2)).read(chances.log())
    assert float(nats[0]) == pytest.approx(np.log(0.7) + np.log(0.3)) and not shown[0]
    assert bool(Outcome("opening", (0, 1)).read(chances.log())[1][0])
    last = chances[:, 1:].log()
    refusal, is_refused = Outcome("refusal", refusals=(1, 2)).read(last)
    comply, complied = Outcome("compliance", refusals=(1, 2)).read(last)
    assert float(refusal[0]) == pytest.approx(np.log(0.9 / 0.1)) and bool(is_refused[0])
    assert float(comply[0]) == pytest.approx(-float(refusal[0])) and not complied[0]


def test_a_model_that_counts_nothing_is_told() -> None:
    model = tiny("llama")
    checkpoint = load(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    rows, against = pair_of_rows()
    with pytest.raises(NumericalError, match="NaN or infinite"):
        Swaps(subject_of(checkpoint), OPENING, against, "last").run(rows, [])
