"""Training Bigram-Backcopy models and measuring them as they learn."""

import contextlib
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.bigram_backcopy.finding import BigramBackcopyFinding, build
from analyses.bigram_backcopy.relu import recorded_logits, relu_attention
from interp.errors import InputError
from interp.model.artifacts import versions
from interp.organisms.bigram_backcopy.grammar import Grammar, small_grammar
from interp.organisms.bigram_backcopy.measure import LayerTrace, Probe, layer_numbers, risks, trace
from interp.organisms.bigram_backcopy.recipes import STEPS, Curriculum, bigram_backcopy_recipes
from interp.organisms.recipes import Bounds, Recipe
from interp.organisms.registry import misses
from interp.resolve import load
from interp.training import one_thread, train_model

# Every point of a curve is measured on the same sequences, of the curriculum's short length, which
# the model is trained on from the first step.
_SEQUENCES = 64
_POINTS = 28  # of a curve, spaced evenly in the logarithm of the step


@dataclass(frozen=True)
class Variant:
    """A curve of the finding: an organism's recipe, perhaps with another attention function."""

    recipe: str
    label: str
    relu: bool = False


VARIANTS: dict[str, Variant] = {
    "plain": Variant("bb-plain", "softmax"),
    "gated": Variant("bb-gated", "element gate"),
    "open": Variant("bb-open", "element gate frozen open"),
    "relu": Variant("bb-plain", "ReLU attention", relu=True),
    "head": Variant("bb-headgate", "head gate"),
    "three": Variant("bb-plain-3", "softmax, 3 layers"),
    "sgd": Variant("bb-sgd", "softmax, SGD"),
}

_RELU_OWED: Bounds = {
    "backcopy_risk": (None, 0.02),
    "bigram_excess": (None, 0.03),
    "bos_attention": (None, 0.001),
}


def bigram_backcopy(
    seeds: Sequence[int] = (0,),
    steps: int = STEPS,
    variants: Sequence[str] = ("plain", "gated", "open", "relu"),
    *,
    progress: Callable[[str, int, int, int], None] | None = None,
) -> BigramBackcopyFinding:
    """Train every variant on every seed and record how its sink comes about.

    Args:
        seeds: of initialisation and data.
        steps: of each training run; the recipes are tuned for the default.
        variants: keys of `VARIANTS`.
        progress: called with the variant, the seed, and the steps done and to do in this run.

    Returns:
        The finding. It takes about 20 seconds of CPU for a variant, a seed and a layer.

    Raises:
        InputError: an unknown variant, no seed, or too few steps.

    Source: arXiv 2410.13835, sections 2 and 3; the quantities are those of its probe_utils.py.
    """
    _check(seeds, steps, variants)
    recipes = bigram_backcopy_recipes(steps)
    grammar = small_grammar()
    started, clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
    curves, rows = [], []
    for name in variants:
        for seed in seeds:
            report = None
            if progress:
                report = lambda done, _, name=name, seed=seed: progress(name, seed, done, steps)  # noqa: E731
            curve, row = _run(VARIANTS[name], recipes, grammar, seed, report)
            curves.append(curve.assign(variant=name, seed=seed))
            rows.append({"variant": name, "label": VARIANTS[name].label, "seed": seed, **row})
    table = pd.concat(curves, ignore_index=True)
    provenance = {
        "model": "Bigram-Backcopy models, trained here",
        "seeds": ", ".join(map(str, seeds)),
        "steps": steps,
        "sequences_per_point": _SEQUENCES,
        "curve_length": Curriculum.short[1],
        "summary_length": Curriculum.full[1],
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - clock, 1),
        "versions": versions(),
    }
    return build(
        table[["variant", "seed", "step", "quantity", "value"]], pd.DataFrame(rows), provenance
    )


def measured_steps(steps: int, points: int = _POINTS) -> list[int]:
    """Step 0 and `points` steps (fewer where they coincide) evenly spaced in their logarithm."""
    return [0, *sorted({int(s) for s in np.geomspace(1, steps, points).round()})]


def _check(seeds: Sequence[int], steps: int, variants: Sequence[str]) -> None:
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not variants:
        raise InputError(f"Unknown variants {unknown}; give one or more of {', '.join(VARIANTS)}.")
    if not seeds:
        raise InputError("Give at least one seed.")
    if steps < 2:
        raise InputError(f"steps is {steps}; a curve needs at least 2.")


def _run(
    variant: Variant,
    recipes: dict[str, Recipe],
    grammar: Grammar,
    seed: int,
    progress: Callable[[int, float], None] | None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Train one model; its curve (step, quantity, value) and its row of the summary."""
    recipe = recipes[variant.recipe]
    probe = Probe.draw(grammar, Curriculum.short[1], _SEQUENCES)
    due = set(measured_steps(recipe.schedule.steps))
    points: list[tuple[int, list[dict[str, float | None]]]] = []
    spent = 0.0

    def look(step: int, model: Any) -> None:
        nonlocal spent
        if step in due:
            before = time.process_time()
            points.append((step, snapshot(model, probe)))
            spent += time.process_time() - before

    with relu_attention() if variant.relu else contextlib.nullcontext("eager") as attention:
        model = recipe.architecture.build(seed, attention)
        clock = time.process_time()
        train_model(
            model,
            recipe.batches(seed),
            recipe.schedule,
            pin=recipe.pin,
            progress=progress,
            on_step=look,
        )
        seconds = time.process_time() - clock - spent
        with one_thread():
            final = recipe.measure(load(model), seed)
    records = [
        {"step": step, "quantity": quantity, "value": value}
        for step, layers in points
        for quantity, value in layers[final["copying_layer"]].items()
        if value is not None
    ]
    owed = _RELU_OWED if variant.relu else recipe.expected
    summary = {key: value for key, value in final.items() if key not in ("layers", "queries")}
    return pd.DataFrame(records), {
        **summary,
        "as_owed": not misses(final, owed),
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds, 1),
    }


def snapshot(model: Any, probe: Probe) -> list[dict[str, float | None]]:
    """The quantities of the curves, for every layer of a model.

    Args:
        model: in evaluation mode, on eager attention or on this package's ReLU attention.
        probe: the batch to measure on.

    Returns:
        For each layer: the risks of the whole model; `bos_attention` and the gate's numbers;
        `logit_gap`, the logit of BOS minus the mean logit of the other visible keys without the
        query itself; `value_norm` ‖W_O v_0‖ and `raw_value_norm` ‖v_0‖ of BOS, `value_norm_rest`
        the median of the others; `residual_norm` of BOS after the layer and `residual_peak`, which
        is that minus the mean of the others. Means over heads, sequences and, where they depend on
        the query, over dormant queries.
    """
    with recorded_logits(model) as logits:
        output, traces = trace(model, probe.ids)
    task = risks(output, probe)
    return [
        {**task, **_layer(one, logit, probe)} for one, logit in zip(traces, logits, strict=True)
    ]


def _layer(one: LayerTrace, logits: Tensor, probe: Probe) -> dict[str, float | None]:
    numbers = layer_numbers(one, probe)
    written, raw = one.written.norm(dim=-1), one.values.norm(dim=-1)
    peak = one.residual[:, 0] - one.residual[:, 1:].mean(1)
    gap = logit_gap(logits).transpose(0, 1)[:, probe.dormant]
    kept = ("bos_attention", "value_ratio", "gate_dormant", "gate_active", "gated_sink_mass")
    return {
        **{key: numbers[key] for key in kept},
        "logit_gap": gap.mean().item(),
        "value_norm": written[:, 0].mean().item(),
        "value_norm_rest": written[:, 1:].median(1).values.mean().item(),
        "raw_value_norm": raw[:, 0].mean().item(),
        "residual_norm": one.residual[:, 0].mean().item(),
        "residual_peak": peak.mean().item(),
    }


def logit_gap(
    logits: Float[Tensor, "batch heads length length"],
) -> Float[Tensor, "batch heads length"]:
    """Δlogit(n) = logit(n, 0) − mean over j = 1 … n−1 of logit(n, j); NaN for n < 2.

    Only keys that the query sees count, without the first one and without itself.

    Source: arXiv 2410.13835, probe_utils.py (summarise_logits_difference).
    """
    length = logits.shape[-1]
    between = torch.ones(length, length, dtype=torch.bool).tril(-1)
    between[:, 0] = False
    total = logits.masked_fill(~between, 0.0).sum(-1)
    return logits[..., 0] - total / between.sum(-1)
