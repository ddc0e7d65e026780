"""Training Bigram-Backcopy models and measuring them as they learn."""

import contextlib
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.bigram_backcopy.finding import BigramBackcopyFinding, build
from analyses.bigram_backcopy.relu import recorded_logits, relu_attention
from analyses.bigram_backcopy.report import (
    CurvePoint,
    Snapshot,
    TrainedModel,
    TrainingProvenance,
)
from analyses.shared.running import Progress, stage
from interp.errors import InputError
from interp.model.artifacts import versions
from interp.organisms.bigram_backcopy.grammar import Grammar, small_grammar
from interp.organisms.bigram_backcopy.measure import LayerTrace, Probe, layer_numbers, risks, trace
from interp.organisms.bigram_backcopy.recipes import STEPS, Curriculum, bigram_backcopy_recipes
from interp.organisms.recipes import Bounds, Recipe
from interp.organisms.registry import misses
from interp.resolve import load
from interp.training import one_thread, train_model

# What the provenance calls the models.
MODELS = "Bigram-Backcopy models, trained here"
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
    *,
    seeds: Sequence[int] = (0,),
    steps: int = STEPS,
    variants: Sequence[str] = ("plain", "gated", "open", "relu"),
    command: str | None = None,
    progress: Progress | None = None,
) -> BigramBackcopyFinding:
    """Train every variant on every seed and record how its sink comes about.

    Args:
        seeds: random seeds of initialisation and data.
        steps: of each training run; the recipes are tuned for the default.
        variants: keys of `VARIANTS`.
        command: kept in the provenance, to reproduce the run.
        progress: called with (stage, done, total), a stage for each model, in steps.

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
    curves: list[CurvePoint] = []
    models: list[TrainedModel] = []
    for name in variants:
        for seed in seeds:
            shown = stage(progress, f"{VARIANTS[name].label}, seed {seed}")
            curve, model = _run(name, recipes, grammar, seed, shown)
            curves += curve
            models.append(model)
    provenance = TrainingProvenance(
        model=MODELS,
        seeds=", ".join(map(str, seeds)),
        steps=steps,
        sequences_per_point=_SEQUENCES,
        curve_length=Curriculum.short[1],
        summary_length=Curriculum.full[1],
        started=started.isoformat(timespec="seconds"),
        wall_seconds=round(time.perf_counter() - clock, 1),
        versions=versions(),
        command=command,
    )
    return build(curves, models, provenance)


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
    name: str,
    recipes: dict[str, Recipe],
    grammar: Grammar,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[CurvePoint], TrainedModel]:
    """Train one model; its curve and its row of the summary."""
    variant = VARIANTS[name]
    recipe = recipes[variant.recipe]
    probe = Probe.draw(grammar, Curriculum.short[1], _SEQUENCES)
    steps = recipe.schedule.steps
    due = set(measured_steps(steps))
    points: list[tuple[int, list[Snapshot]]] = []
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
            progress=None if progress is None else lambda done, _: progress(done, steps),
            on_step=look,
        )
        seconds = time.process_time() - clock - spent
        with one_thread():
            final = recipe.measure(load(model), seed)
    curve = [
        CurvePoint(name, seed, step, quantity, value)
        for step, layers in points
        for quantity, value in asdict(layers[final["copying_layer"]]).items()
        if value is not None
    ]
    owed = _RELU_OWED if variant.relu else recipe.expected
    as_owed = not misses(final, owed)
    parameters = sum(p.numel() for p in model.parameters())
    return curve, _trained(name, seed, final, as_owed, parameters, round(seconds, 1))


def _trained(
    name: str,
    seed: int,
    final: Mapping[str, Any],
    as_owed: bool,
    parameters: int,
    cpu_seconds: float,
) -> TrainedModel:
    """A row of the summary, from what the truth file of an organism would say."""
    return TrainedModel(
        variant=name,
        label=VARIANTS[name].label,
        seed=seed,
        backcopy_risk=final["backcopy_risk"],
        bigram_risk=final["bigram_risk"],
        bigram_excess=final["bigram_excess"],
        copying_layer=final["copying_layer"],
        bos_attention=final["bos_attention"],
        bos_attention_active=final["bos_attention_active"],
        value_ratio=final["value_ratio"],
        raw_value_ratio=final["raw_value_ratio"],
        gate_dormant=final["gate_dormant"],
        gate_active=final["gate_active"],
        gated_sink_mass=final["gated_sink_mass"],
        residual_ratio=final["residual_ratio"],
        zeroed_backcopy_risk=final["zeroed_backcopy_risk"],
        zeroed_bigram_change=final["zeroed_bigram_change"],
        as_owed=as_owed,
        parameters=parameters,
        cpu_seconds=cpu_seconds,
    )


def snapshot(model: Any, probe: Probe) -> list[Snapshot]:
    """The quantities of the curves, for every layer of a model.

    Args:
        model: in evaluation mode, on eager attention or on this package's ReLU attention.
        probe: the batch to measure on.
    """
    with recorded_logits(model) as logits:
        output, traces = trace(model, probe.ids)
    task = risks(output, probe)
    return [_layer(task, one, logit, probe) for one, logit in zip(traces, logits, strict=True)]


def _layer(task: Mapping[str, float], one: LayerTrace, logits: Tensor, probe: Probe) -> Snapshot:
    numbers = layer_numbers(one, probe)
    written, raw = one.written.norm(dim=-1), one.values.norm(dim=-1)
    peak = one.residual[:, 0] - one.residual[:, 1:].mean(1)
    gap = logit_gap(logits).transpose(0, 1)[:, probe.dormant]
    return Snapshot(
        backcopy_risk=task["backcopy_risk"],
        bigram_risk=task["bigram_risk"],
        bigram_excess=task["bigram_excess"],
        bos_attention=numbers["bos_attention"],
        value_ratio=numbers["value_ratio"],
        gate_dormant=numbers["gate_dormant"],
        gate_active=numbers["gate_active"],
        gated_sink_mass=numbers["gated_sink_mass"],
        logit_gap=gap.mean().item(),
        value_norm=written[:, 0].mean().item(),
        value_norm_rest=written[:, 1:].median(1).values.mean().item(),
        raw_value_norm=raw[:, 0].mean().item(),
        residual_norm=one.residual[:, 0].mean().item(),
        residual_peak=peak.mean().item(),
    )


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
