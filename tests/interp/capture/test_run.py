"""One pass over rows: the same numbers in any batching, and nothing left behind."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CONFIGS, LAYERS, tiny
from recording import LENGTHS, applying, results, rows_of, same
from torch import nn

import interp
from interp.capture.recorder import EMBED, FINAL, LayerBatch, Needs, RowRecorder
from interp.capture.recorders import FirstKeyMass, ResidualNorms, RowEntropy, ValueNorms
from interp.capture.run import capture, estimate_bytes
from interp.capture.store import Activations
from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.row_plan import RowPlan
from interp.data.rows import Row, Rows
from interp.errors import InputError
from interp.model.sites import Site


def hooks(model: nn.Module) -> int:
    """How many hooks a model carries in all."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


class Trace:
    """What a capture must leave as it found it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model = checkpoint.model
        self.ids = torch.arange(3, 15)[None]
        self.before = self._look()

    def _look(self) -> tuple[Any, ...]:
        with torch.inference_mode():
            logits = self.model(self.ids, use_cache=False).logits
        configs = {id(m.config): m.config for m in self.model.modules() if hasattr(m, "config")}
        implementations = [config._attn_implementation for config in configs.values()]
        forwards = [module.__dict__.get("forward") for module in self.model.modules()]
        return logits.numpy().tobytes(), implementations, hooks(self.model), forwards

    def require_restored(self) -> None:
        assert self._look() == self.before


# --- batching ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_row_in_any_batch_is_the_row_alone(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    rows = rows_of(checkpoint)
    alone = applying(checkpoint)
    for row in rows.rows:
        capture(checkpoint, [row], alone)
    for budget in (1, 45, 8192):
        together = applying(checkpoint)
        summary = capture(checkpoint, rows, together, batch_tokens=budget)
        assert (summary.batches == len(rows)) == (budget == 1)
        wanted, given = results(alone), results(together)
        assert set(given) == set(wanted)
        for key, values in wanted.items():
            # The median is known to a bin of 8e-6; ranks among equals are not the point here.
            if re.match(r"MassiveActivations/(position|dim)", key):
                first = wanted[key.replace("position", "value").replace("dim", "value")]
                clear = np.abs(np.diff(np.abs(first), axis=1)).min() > 1e-4
                assert not clear or np.array_equal(given[key], values), key
                continue
            largest = max(1.0, float(np.nanmax(np.abs(values))))
            tolerance = (2e-5 if key.startswith("Median") else 1e-5) * largest
            np.testing.assert_allclose(given[key], values, rtol=0, atol=tolerance, err_msg=key)


def test_padding_comes_right_with_mask_and_positions() -> None:
    checkpoint = interp.load(tiny("llama"))
    inputs = padded(rows_of(checkpoint, (4, 2)).rows, checkpoint)
    assert inputs["input_ids"].shape == (2, 4)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 1, 1]]
    assert inputs["input_ids"][1, 2:].tolist() == [0, 0]


def test_an_unknown_way_of_attention_is_refused() -> None:
    checkpoint = interp.load(tiny("llama"))
    way: Any = "flash"
    with pytest.raises(InputError, match="attention 'flash' is unknown; allowed: auto, eager"):
        capture(checkpoint, rows_of(checkpoint), [FirstKeyMass()], attention=way)


def test_the_summary_and_the_progress_count_rows() -> None:
    checkpoint = interp.load(tiny("llama"))
    seen: list[tuple[int, int]] = []
    rows = rows_of(checkpoint)
    summary = capture(
        checkpoint,
        rows,
        [FirstKeyMass()],
        batch_tokens=40,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (summary.rows, summary.tokens, summary.resumed) == (8, sum(LENGTHS), 0)
    assert len(seen) == summary.batches and seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert summary.seconds > 0


def test_the_estimate_is_what_one_layer_holds() -> None:
    checkpoint = interp.load(tiny("llama"))
    plan = RowPlan.make(rows_of(checkpoint).rows, 40)
    residual = [ResidualNorms().needs(checkpoint)]
    assert estimate_bytes(checkpoint, residual, plan) == plan.largest_batch * 32 * 4
    more = [*residual, ValueNorms().needs(checkpoint)]
    assert estimate_bytes(checkpoint, more, plan) == plan.largest_batch * (32 + 16) * 4


# --- how far it runs ---------------------------------------------------------------------------


class Watch(RowRecorder):
    """Needs some sites and statistics, and writes down what it was shown."""

    def __init__(self, *sites: Site) -> None:
        super().__init__()
        self.sites = sites
        self._shown: list[tuple[int | None, list[str]]] = []

    def needs(self, checkpoint: Checkpoint) -> Needs:
        return Needs(frozenset(self.sites))

    def update(self, batch: LayerBatch) -> None:
        self._shown.append((batch.layer, sorted(batch.tensors)))
        self.keep(batch, "length", batch.lengths)


@pytest.mark.parametrize(
    ("sites", "calls"),
    [
        ([Site("resid_post", 1)], 2),
        ([Site("resid_pre", 2), Site("z", 0)], 3),
        ([Site("embed"), Site("v", 0)], 1),
        ([Site("resid_post", LAYERS - 1)], LAYERS),
        ([Site("resid_pre", 0), Site("final_norm")], LAYERS),
    ],
)
def test_the_pass_stops_after_the_last_layer_needed(sites: list[Site], calls: int) -> None:
    checkpoint = interp.load(tiny("llama"))
    ran: list[int] = []
    # Before our own hooks, so that a call that ends in a stop is counted too.
    for index, layer in enumerate(checkpoint.layers):
        layer.register_forward_pre_hook(lambda module, args, index=index: ran.append(index))
    recorder = Watch(*sites)
    summary = capture(checkpoint, rows_of(checkpoint), [recorder], batch_tokens=45)
    assert ran == list(range(calls)) * summary.batches
    by_layer: dict[int | None, set[str]] = {}
    for layer, names in recorder._shown:
        by_layer.setdefault(layer, set()).update(names)
    wanted: dict[int | None, set[str]] = {}
    for site in sites:
        wanted.setdefault(site.layer, set()).add(site.name)
    assert by_layer == wanted


def test_embedding_and_final_norm_have_keys_of_their_own() -> None:
    checkpoint = interp.load(tiny("llama"))
    recorder = ResidualNorms()
    capture(checkpoint, rows_of(checkpoint), [recorder])
    assert recorder.result().layers("first") == [EMBED, *range(LAYERS), FINAL]


# --- restoration -------------------------------------------------------------------------------


class Breaks(FirstKeyMass):
    """Fails in the middle of a pass."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def update(self, batch: LayerBatch) -> None:
        super().update(batch)
        if batch.layer == batch.checkpoint.anatomy.softmax_layers[-1]:
            raise self._error


@pytest.mark.parametrize("family", ["llama", "qwen3_5", "gpt_oss", "gpt2"])
@pytest.mark.parametrize("error", [None, RuntimeError("broken"), KeyboardInterrupt()])
def test_a_capture_leaves_the_model_as_it_was(family: str, error: BaseException | None) -> None:
    checkpoint = interp.load(tiny(family))
    trace = Trace(checkpoint)
    recorders = applying(checkpoint)
    if error is None:
        capture(checkpoint, rows_of(checkpoint), recorders)
    else:
        with pytest.raises(type(error)):
            capture(checkpoint, rows_of(checkpoint), [*recorders, Breaks(error)])
    trace.require_restored()


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_a_failing_model_leaves_nothing_behind(attention: Any) -> None:
    checkpoint = interp.load(tiny("llama"))
    trace = Trace(checkpoint)

    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("out of memory")

    with (
        checkpoint.layers[2].register_forward_pre_hook(fail),
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        capture(checkpoint, rows_of(checkpoint), [FirstKeyMass()], attention=attention)
    trace.require_restored()


# --- refusals ----------------------------------------------------------------------------------


def test_empty_captures_and_twin_rows_are_refused() -> None:
    checkpoint = interp.load(tiny("llama"))
    rows = rows_of(checkpoint)
    for given, recorders in (([], [FirstKeyMass()]), (rows.rows, [])):
        with pytest.raises(InputError, match="at least one row and one recorder"):
            capture(checkpoint, given, recorders)
    with pytest.raises(InputError, match="same index"):
        capture(checkpoint, [*rows.rows, Row(3, (5, 6), "again")], [FirstKeyMass()])


def test_a_site_that_the_model_lacks_is_refused() -> None:
    checkpoint = interp.load(tiny("qwen3_5"))
    with pytest.raises(InputError, match="has no site 'z'; it has"):
        capture(checkpoint, rows_of(checkpoint), [Watch(Site("z", 0))])
    with pytest.raises(InputError, match="there is no layer 4"):
        capture(checkpoint, rows_of(checkpoint), [Watch(Site("resid_post", 4))])


def test_a_site_that_never_fires_is_named() -> None:
    checkpoint = interp.load(tiny("llama"))
    attention = checkpoint.layers[1].self_attn
    attention.forward = lambda hidden_states, **kwargs: (hidden_states, None)
    for recorder, name in (
        (Watch(Site("z", 1)), r"blocks\.1\.attn\.hook_z"),
        (FirstKeyMass(), "the attention of layer 1"),
    ):
        with pytest.raises(InputError, match=f"{name} of .* never fired"):
            capture(checkpoint, rows_of(checkpoint), [recorder])


# --- resuming -----------------------------------------------------------------------------------


def counting(checkpoint: Checkpoint) -> list[int]:
    """A list that grows by one with every forward pass."""
    passes: list[int] = []
    checkpoint.layers[0].register_forward_pre_hook(lambda module, args: passes.append(1))
    return passes


def interrupted(checkpoint: Checkpoint, rows: Rows, recorders: list[Any], folder: Path) -> None:
    """A capture that Ctrl-C ends after two batches."""
    finished: list[int] = []

    def stop(done: int, total: int) -> None:
        finished.append(done)
        if len(finished) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(checkpoint, rows, recorders, batch_tokens=40, workdir=folder, progress=stop)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_a_stopped_run_goes_on_where_it_was(family: str, tmp_path: Path) -> None:
    checkpoint = interp.load(tiny(family))
    rows = rows_of(checkpoint)

    def recorders(name: str) -> list[Any]:
        stream = Activations(Site("resid_post", 2), tmp_path / name)
        return [*applying(checkpoint), stream]

    *whole, stream = recorders("whole")
    total = capture(checkpoint, rows, [*whole, stream], batch_tokens=40).batches
    trace = Trace(checkpoint)
    interrupted(checkpoint, rows, recorders("again"), tmp_path / "work")
    trace.require_restored()

    passes = counting(checkpoint)
    *resumed, again = recorders("again")
    summary = capture(
        checkpoint, rows, [*resumed, again], batch_tokens=40, workdir=tmp_path / "work"
    )
    assert summary.resumed == 2 and len(passes) == total - 2
    same(resumed, whole)
    first, second = stream.result().load(), again.result().load()
    assert all(torch.equal(first[key], second[key]) for key in first)
    passes.clear()
    once_more = recorders("again")
    capture(checkpoint, rows, once_more, batch_tokens=40, workdir=tmp_path / "work")
    assert not passes
    same(once_more[:-1], whole)


def test_a_work_folder_of_another_run_is_left_and_what_differs_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    checkpoint = interp.load(tiny("llama"))
    rows = rows_of(checkpoint)
    segments = [Row(r.index, r.ids, r.domain, {"text": (1, 3)}) for r in rows.rows]
    others: list[tuple[Checkpoint, Any, Any, int, str]] = [
        (interp.load(tiny("llama", seed=1)), rows, FirstKeyMass(), 40, "model.weights"),
        (checkpoint, rows.rows[1:], FirstKeyMass(), 40, "rows"),
        (checkpoint, [*rows.rows[1:], Row(0, (9,) * 12, "ids")], FirstKeyMass(), 40, "rows"),
        (checkpoint, rows, RowEntropy(), 40, "recorders"),
        (checkpoint, rows, FirstKeyMass(), 80, "batches"),
        (checkpoint, segments, FirstKeyMass(), 40, "rows"),
    ]
    for number, (other, given, recorder, budget, said) in enumerate(others):
        folder = tmp_path / str(number)
        interrupted(checkpoint, rows, [FirstKeyMass()], folder)
        caplog.clear()
        alone = copy.deepcopy(recorder)
        found = capture(other, given, [recorder], batch_tokens=budget, workdir=folder)
        assert found.resumed == 0 and f"{said}" in caplog.text
        capture(other, given, [alone], batch_tokens=budget)
        same([recorder], [alone])


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_shard_is_told_and_computed_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = interp.load(tiny("llama"))
    rows = rows_of(checkpoint)
    whole = [FirstKeyMass()]
    capture(checkpoint, rows, whole, batch_tokens=40)
    interrupted(checkpoint, rows, [FirstKeyMass()], tmp_path)
    shard = sorted(tmp_path.glob("*/batch-*"))[0]
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(bytes(content if damage == "bit" else content[:-20]))
    again = [FirstKeyMass()]
    found = capture(checkpoint, rows, again, batch_tokens=40, workdir=tmp_path)
    assert f"{shard.name} is damaged" in caplog.text and found.resumed == 1
    same(again, whole)
