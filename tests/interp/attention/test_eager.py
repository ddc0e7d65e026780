"""Families that bypass the attention interface, and eager as the slow path of the others."""

from typing import Any

import numpy as np
import pytest
import torch
from families import REFUSED, VOCAB, tiny
from refused import bypassing

import interp
from interp.attention.eager import observe_weights
from interp.capture.recorders import (
    ChosenKeyMass,
    ColumnMass,
    FirstKeyMass,
    HeadOutputs,
    LearnedSinkShare,
    LogitGap,
    ResidualNorms,
    RowEntropy,
)
from interp.capture.run import capture
from interp.checkpoint import Checkpoint
from interp.data.rows import Rows, id_rows
from interp.errors import UnsupportedModelError

LAYERS, HEADS = 2, 4
LENGTHS = (12, 7, 12, 11)


def _checkpoint(family: str) -> Checkpoint:
    model = bypassing(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.25)
    return interp.load(model)


def _rows(checkpoint: Checkpoint) -> Rows:
    random = np.random.default_rng(1)
    return id_rows(checkpoint, {"ids": [random.integers(3, VOCAB, n).tolist() for n in LENGTHS]})


def _own_weights(checkpoint: Checkpoint, rows: Rows) -> list[np.ndarray[Any, Any]]:
    """The model's `output_attentions` for each row alone, [layers, heads, T, T]."""
    weights = []
    with torch.inference_mode():
        for row in rows.rows:
            ids = torch.tensor([row.ids])
            output = checkpoint.model(
                ids, attention_mask=torch.ones_like(ids), output_attentions=True, use_cache=False
            )
            weights.append(torch.cat(output.attentions).double().numpy())
    return weights


def _entropy(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return -(weights * np.log(np.where(weights > 0, weights, 1.0))).sum(-1)


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_outside_of_the_interface_is_refused_by_default(family: str) -> None:
    checkpoint = _checkpoint(family)
    assert not checkpoint.anatomy.interface
    with pytest.raises(UnsupportedModelError, match=r'AttentionInterface.*attention="eager"'):
        capture(checkpoint, _rows(checkpoint), [FirstKeyMass()])


@pytest.mark.parametrize("family", REFUSED)
def test_eager_statistics_are_those_of_the_models_own_weights(family: str) -> None:
    checkpoint = _checkpoint(family)
    rows = _rows(checkpoint)
    first, columns, entropy, chosen = (
        FirstKeyMass(),
        ColumnMass(),
        RowEntropy(),
        ChosenKeyMass((2,)),
    )
    recorders = [first, columns, entropy, chosen]
    summary = capture(checkpoint, rows, recorders, attention="eager", batch_tokens=36)
    assert summary.batches < len(rows)
    for number, weights in enumerate(_own_weights(checkpoint, rows)):
        length = weights.shape[-1]
        close = {"rtol": 0, "atol": 1e-5}
        mass = weights[..., 0]
        alpha, sink = first.result().stack("alpha"), first.result().stack("sink_mass")
        np.testing.assert_allclose(alpha[number], mass.mean(-1), **close)
        np.testing.assert_allclose(sink[number], mass[..., 1:].mean(-1), **close)
        column = columns.result().stack("alpha")[number][..., :length]
        viewers = length - np.arange(length)
        np.testing.assert_allclose(column, weights.sum(2) / viewers, **close)
        shares = np.stack(
            [
                _entropy(weights[:, :, k:, k] / weights[:, :, k:, k].sum(-1, keepdims=True))
                / np.log(length - k)
                for k in range(length - 1)
            ]
        )
        largest = columns.result().stack("column_entropy")[number]
        np.testing.assert_allclose(largest, shares.max(0), **close)
        nats = entropy.result().stack("nats")[number]
        np.testing.assert_allclose(nats, _entropy(weights).mean(-1), **close)
        effective = (1 / (weights**2).sum(-1)).mean(-1)
        found = entropy.result().stack("participation")[number]
        np.testing.assert_allclose(found, effective, rtol=1e-5)
        kept = chosen.result().stack("mass")[number][..., 0]
        np.testing.assert_allclose(kept, weights[..., 2:, 2].mean(-1), **close)


@pytest.mark.parametrize("family", REFUSED)
def test_hidden_states_and_head_outputs_need_no_attention(family: str) -> None:
    checkpoint = _checkpoint(family)
    rows = _rows(checkpoint)
    residual, outputs, gap = ResidualNorms(), HeadOutputs(), LogitGap()
    assert not gap.needs(checkpoint).sites
    capture(checkpoint, rows, [residual, outputs], batch_tokens=36)
    assert "after" in outputs.result() and "sink_share" not in outputs.result()
    assert outputs.result().stack("after").shape == (4, LAYERS, HEADS)
    with torch.inference_mode():
        ids = torch.tensor([rows.rows[0].ids])
        states = checkpoint.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    first = [residual.result().at("first", layer)[0] for layer in range(LAYERS - 1)]
    wanted = [float(state[0, 0].norm()) for state in states[1:-1]]
    np.testing.assert_allclose(first, wanted, rtol=1e-5)


def test_hooks_of_the_eager_path_are_gone_afterwards() -> None:
    checkpoint = _checkpoint("bloom")

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in checkpoint.model.modules())

    before = hooks()
    capture(checkpoint, _rows(checkpoint), [FirstKeyMass()], attention="eager")
    assert hooks() == before
    with pytest.raises(KeyboardInterrupt), observe_weights(checkpoint, {}):
        raise KeyboardInterrupt
    assert hooks() == before


def test_a_module_that_keeps_its_weights_to_itself_is_refused() -> None:
    checkpoint = _checkpoint("bloom")
    module = checkpoint.layers[1].self_attention
    own = module.forward
    module.forward = lambda *args, **kwargs: (own(*args, **kwargs)[0], None)
    with pytest.raises(UnsupportedModelError, match="returns no attention weights"):
        capture(checkpoint, _rows(checkpoint), [FirstKeyMass()], attention="eager")


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "qwen3_5"])
def test_the_eager_path_and_the_streamed_one_agree(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    rows = _rows(checkpoint)

    def run(attention: Any) -> list[Any]:
        recorders: list[Any] = [FirstKeyMass(), ColumnMass(), RowEntropy(), HeadOutputs()]
        if family == "gpt_oss":
            recorders.append(LearnedSinkShare())
        capture(checkpoint, rows, recorders, attention=attention, batch_tokens=36)
        return [recorder.result() for recorder in recorders]

    for streamed, eager in zip(run("auto"), run("eager"), strict=True):
        assert set(streamed.by_layer) == set(eager.by_layer)
        for name in streamed.by_layer:
            one, other = streamed.stack(name), eager.stack(name)
            largest = max(1.0, float(np.nanmax(np.abs(other))))
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * largest, err_msg=name)
