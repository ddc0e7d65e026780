"""The capture behind the finding, and the parity that it reports of itself."""

from typing import Any

import pytest
import torch
from families import tiny
from refused import bypassing
from words import documents, tokenizer, wordy

from analyses.shared.reports import NotMeasured
from analyses.sinks import measure as module
from analyses.sinks.measure import Measurements, measure, parity
from interp.attention.statistics import AttentionPath
from interp.checkpoint import Checkpoint
from interp.data.rows import Rows, as_texts, id_rows, text_rows
from interp.resolve import load

LENGTH = 20
ALWAYS = {"first_key", "columns", "rows", "values", "keys", "outputs", "residual", "massive"}


def _rows(checkpoint: Checkpoint) -> Rows:
    return text_rows(checkpoint, [as_texts("words", documents(4, 30))], length=LENGTH)


def _measured(checkpoint: Checkpoint, attention: AttentionPath = "auto") -> Measurements:
    return measure(
        checkpoint,
        _rows(checkpoint),
        attention=attention,
        batch_tokens=2 * LENGTH,
        workdir=None,
        progress=None,
    )


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {"logit_gap"}),
        ("gpt2", {"logit_gap"}),
        ("qwen3_5", {"logit_gap", "gates"}),
        ("gpt_oss", {"logit_gap", "learned_sink"}),
        ("gemma2", set()),
        ("afmoe", {"logit_gap", "gates"}),
    ],
)
def test_every_recorder_that_applies_and_no_other(family: str, more: set[str]) -> None:
    checkpoint = wordy(family)
    found = _measured(checkpoint)
    assert set(found.records) == ALWAYS | more
    assert ("gates" in found) is ("gates" in more)
    layers = list(checkpoint.anatomy.softmax_layers)
    assert found.records["first_key"].layers("alpha") == layers
    assert list(found.records["first_key"].rows) == [0, 1, 2, 3]
    assert set(found.medians) >= set(range(checkpoint.anatomy.n_layers))


def test_one_pass_over_the_rows_feeds_everything() -> None:
    checkpoint = wordy("llama")
    rows: list[int] = []
    handle = checkpoint.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])),
        with_kwargs=True,
    )
    _measured(checkpoint)
    handle.remove()
    assert rows == [2, 2]


def test_the_median_is_over_all_entries_of_all_rows() -> None:
    checkpoint = wordy("llama")
    found = _measured(checkpoint)
    ids = torch.tensor([row.ids for row in found.rows.rows])
    with torch.inference_mode():
        states = checkpoint.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    for layer in range(3):
        assert found.medians[layer] == pytest.approx(
            float(states[layer + 1].abs().median()), rel=1e-5
        )


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_5", "gpt_oss", "gemma2", "mistral"])
def test_the_instrumented_pass_is_the_plain_one(family: str) -> None:
    checkpoint = wordy(family)
    found = parity(checkpoint, _rows(checkpoint).rows, "auto")
    assert found.max_logit_difference <= 1e-5 * found.largest_logit
    assert isinstance(found.max_statistic_difference, float)
    assert found.max_statistic_difference <= 1e-5


def test_parity_leaves_padding_out() -> None:
    checkpoint = load(tiny("llama"), tokenizer=tokenizer())
    rows = id_rows(checkpoint, {"ids": [list(range(1, 20)), list(range(1, 9))]}).rows
    found = parity(checkpoint, rows, "auto")
    assert found.max_logit_difference <= 1e-5 * found.largest_logit
    assert isinstance(found.max_statistic_difference, float)
    assert found.max_statistic_difference <= 1e-5


def test_long_rows_are_cut_before_their_square_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PARITY_TOKENS", 7)
    checkpoint = wordy("llama")
    lengths: set[int] = set()
    handle = checkpoint.model.register_forward_pre_hook(
        lambda _, __, kwargs: lengths.add(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    parity(checkpoint, _rows(checkpoint).rows, "auto")
    handle.remove()
    assert lengths == {7}


@pytest.mark.parametrize("broken", ["statistics", "logits"])
def test_parity_sees_what_is_off(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._statistics

    def off(checkpoint: Any, inputs: Any, attention: str) -> Any:
        statistics, logits = real(checkpoint, inputs, attention)  # type: ignore[arg-type]
        if attention == "auto" and broken == "logits":
            logits = logits + 0.25
        if attention == "auto" and broken == "statistics":
            statistics[1].entropy[0, 2, 5] += 0.25
        return statistics, logits

    checkpoint = wordy("llama")
    monkeypatch.setattr(module, "_statistics", off)
    found = parity(checkpoint, _rows(checkpoint).rows, "auto")
    assert (found.max_logit_difference > 0.2) is (broken == "logits")
    assert isinstance(found.max_statistic_difference, float)
    assert (found.max_statistic_difference > 0.05) is (broken == "statistics")


def test_a_family_outside_the_interface_is_read_from_its_own_weights() -> None:
    checkpoint = load(bypassing("bloom"), tokenizer=tokenizer())
    found = _measured(checkpoint, "eager")
    ids = torch.tensor([row.ids for row in found.rows.rows])
    with torch.inference_mode():
        weights = checkpoint.model(ids, output_attentions=True, use_cache=False).attentions
    for layer, attention in enumerate(weights):
        ours = found.records["first_key"].at("alpha", layer)
        assert ours == pytest.approx(attention[..., 0].mean(-1).numpy(), rel=1e-5)
    assert "logit_gap" not in found and "keys" not in found
    checked = parity(checkpoint, found.rows.rows, "eager")
    assert checked.max_logit_difference <= 1e-5 * checked.largest_logit
    assert isinstance(checked.max_statistic_difference, NotMeasured)
