"""States of prompts: the right token of the right layer, whatever the batch."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from interp import Checkpoint, InputError, load
from interp.capture.prompt_states import post_instruction_tokens, prompt_rows, prompt_states
from interp.data.rows import Row
from interp.data.segments import t_inst, t_post_inst
from interp.doctor.model_under_test import reading
from interp.model.sites import Site
from interp.organisms import prompts


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load("organism:chat")


@pytest.fixture(scope="module")
def rows(checkpoint: Checkpoint) -> list[Row]:
    some = prompts("chat")
    return prompt_rows(checkpoint, [*some["harmful"][:5], *some["refused_harmless"][:5]])


def slow(checkpoint: Checkpoint, rows: Sequence[Row], name: str) -> np.ndarray:
    """One row at a time through the whole model."""
    found = []
    sites = [Site(name, i) for i in range(checkpoint.anatomy.n_layers)]
    for row in rows:
        with torch.no_grad(), reading(checkpoint, sites) as seen:
            checkpoint.model(torch.tensor([row.ids]))
        where = [t_inst(row), *range(t_inst(row) + 1, len(row))]
        found.append(torch.stack([seen[site][0, where] for site in sites]))
    return torch.stack(found).numpy()


@pytest.mark.parametrize("name", ["resid_pre", "resid_post", "attn_out"])
def test_states_are_those_of_each_row_alone(
    checkpoint: Checkpoint, rows: list[Row], name: str
) -> None:
    mixed = [rows[i] for i in (7, 2, 9, 0, 4, 1)]
    states = prompt_states(checkpoint, mixed, site=name, batch_tokens=40)
    assert states.values.shape == (6, 3, 4, 96)
    assert states.positions == (-4, -3, -2, -1)
    np.testing.assert_allclose(states.values, slow(checkpoint, mixed, name), atol=2e-5)


def test_named_positions_are_the_ends(checkpoint: Checkpoint, rows: list[Row]) -> None:
    states = prompt_states(checkpoint, rows, layers=[1, 2])
    assert states.layers == (1, 2)
    assert np.array_equal(states.t_inst, states.at(-4))
    assert np.array_equal(states.t_post_inst, states.at(-1))
    assert len(states[np.array([0, 3])]) == 2
    assert all(len(row) - 1 == t_post_inst(row) for row in rows)
    with pytest.raises(InputError, match="position -9 was not captured"):
        states.at(-9)


def test_unequal_tails_are_refused(rows: list[Row]) -> None:
    first = rows[0]
    begin, end = first.segments["post_instruction"]
    longer = Row(99, (*first.ids, 0), "", {**first.segments, "post_instruction": (begin, end + 1)})
    assert post_instruction_tokens(rows) == 3
    with pytest.raises(InputError, match="puts 3 to 4 tokens behind"):
        post_instruction_tokens([first, longer])
    with pytest.raises(InputError, match="goes on behind its prompt"):
        post_instruction_tokens([Row(0, (*first.ids, 0), "", first.segments)])


def test_a_prompt_beyond_the_context_is_refused(checkpoint: Checkpoint) -> None:
    prompt = prompts("chat")["harmful"][0]
    long = {"role": "user", "content": " ".join([prompt.text] * 60)}
    import dataclasses

    with pytest.raises(InputError, match=r"prompt 0 has \d+ tokens .* was built for 128"):
        prompt_rows(checkpoint, [dataclasses.replace(prompt, messages=(long,))])
