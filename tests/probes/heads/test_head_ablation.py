"""Heads silenced at chosen tokens, against the organism's own way of doing it."""

from typing import Any

import numpy as np
import pytest
import torch
from families import VOCAB, tiny

import interp
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import next_logits
from interp.model.sites import Site, site_hook
from interp.organisms.chat.cliff import silenced
from probes.heads.head_ablation import all_heads, closing_marker, silenced_heads


def rows_with_marker() -> list[Row]:
    generator = torch.Generator().manual_seed(2)
    made = []
    for index, (length, begin) in enumerate([(9, 7), (6, 3), (11, 10)]):
        ids = tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist())
        made.append(Row(index, ids, "", {"closing": (begin, length)}))
    return made


def seen(checkpoint: Checkpoint, layer: int, rows: list[Row], **how: Any) -> list[torch.Tensor]:
    """What the heads of a layer hand to the output projection, row by row."""
    found: list[torch.Tensor] = []
    hook = site_hook(checkpoint, Site("z", layer))
    assert hook is not None
    for row in rows:
        edit = silenced_heads(checkpoint, [(layer, 1)], **how)
        with edit([row]):
            # Behind the edit's own hook, so it sees what the projection gets.
            handle = hook.module.register_forward_pre_hook(
                lambda module, args: found.append(args[0].detach().unflatten(-1, (4, -1))[0])
            )
            try:
                with torch.no_grad():
                    checkpoint.decoder(torch.tensor([row.ids]))
            finally:
                handle.remove()
    return found


def test_only_the_closing_marker_is_touched() -> None:
    checkpoint = interp.load(tiny("llama"))
    rows = rows_with_marker()
    edited = seen(checkpoint, 0, rows, where=closing_marker)
    everywhere = seen(checkpoint, 0, rows, where=None)
    for row, z, whole in zip(rows, edited, everywhere, strict=True):
        begin, end = row.segments["closing"]
        assert not z[begin:end, 1].any() and bool((z[:begin, 1] != 0).any(-1).all())
        assert not whole[:, 1].any()
        torch.testing.assert_close(z[:, [0, 2, 3]], whole[:, [0, 2, 3]])


def test_the_norm_is_restored_token_by_token() -> None:
    checkpoint = interp.load(tiny("llama"))
    rows = rows_with_marker()
    plain = seen(checkpoint, 0, rows, where=closing_marker)
    restored = seen(checkpoint, 0, rows, where=closing_marker, restore_norm=True)
    with torch.no_grad():
        for row, z, kept in zip(rows, plain, restored, strict=True):
            begin, end = row.segments["closing"]
            whole: list[torch.Tensor] = []
            hook = site_hook(checkpoint, Site("z", 0))
            assert hook is not None
            handle = hook.module.register_forward_pre_hook(
                lambda module, args, into=whole: into.append(args[0][0].clone())
            )
            checkpoint.decoder(torch.tensor([row.ids]))
            handle.remove()
            torch.testing.assert_close(kept.flatten(-2).norm(dim=-1), whole[0].norm(dim=-1))
            factor = kept[begin:end, 0] / z[begin:end, 0]
            torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
            assert bool((factor > 1).all())


def test_it_silences_what_the_organism_silences_while_it_is_trained() -> None:
    checkpoint = interp.load("organism:cliff")
    tokenizer: Any = checkpoint.tokenizer
    prompts = organisms.prompts("cliff")["harmful"][:4]
    thought = tokenizer("hmm this looks bad must refuse </think>", add_special_tokens=False)
    rows = []
    for index, prompt in enumerate(prompts):
        ids = (*prompt.ids(tokenizer), *thought["input_ids"])
        rows.append(Row(index, tuple(ids), "", {"closing": (len(ids) - 1, len(ids))}))
    for number, head in enumerate(all_heads(checkpoint)):
        ours = next_logits(checkpoint, rows, edit=silenced_heads(checkpoint, [head]))
        for row, logits in zip(rows, ours, strict=True):
            with silenced(checkpoint.model, torch.tensor([number])), torch.no_grad():
                theirs = checkpoint.model(input_ids=torch.tensor([row.ids])).logits[0, -1]
            np.testing.assert_allclose(logits.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_heads_that_are_not_there_are_refused() -> None:
    checkpoint = interp.load(tiny("qwen3_next"))
    assert {layer for layer, _ in all_heads(checkpoint)} == {1, 3}
    for heads in ([], [(0, 0)], [(1, 4)]):
        with pytest.raises(InputError, match="no heads"):
            silenced_heads(checkpoint, heads)
