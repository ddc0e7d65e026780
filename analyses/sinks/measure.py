"""The capture behind the sink finding: all recorders in one pass, and that pass's parity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from analyses.shared.reports import NotMeasured
from analyses.sinks.report import Parity
from interp.attention.eager import observe_weights
from interp.attention.kernels import AttentionStatistics, Demand
from interp.attention.statistics import AttentionCall, AttentionPath, Tap, observe
from interp.capture.recorder import Recorder, RowRecords
from interp.capture.recorders import (
    ColumnMass,
    FirstKeyMass,
    GateScores,
    HeadOutputs,
    KeyNorms,
    LearnedSinkShare,
    LogitGap,
    MassiveActivations,
    MedianMagnitude,
    ResidualNorms,
    RowEntropy,
    ValueNorms,
)
from interp.capture.run import capture
from interp.checkpoint import Checkpoint
from interp.data.padding import padded
from interp.data.rows import Row, Rows

RecorderName = Literal[
    "first_key",
    "columns",
    "rows",
    "learned_sink",
    "logit_gap",
    "values",
    "keys",
    "outputs",
    "gates",
    "residual",
    "massive",
    "median",
]
# What the recorders keep of each head.
Quantity = Literal[
    "sink_mass",
    "gated_sink_mass",
    "sink_share",
    "first",
    "rest",
    "raw_first",
    "raw_rest",
    "entropy",
    "column_entropy",
    "participation",
    "logit_gap",
    "learned_sink",
    "mean",
    "below_0_01",
    "below_0_1",
    "before",
    "after",
]
_RECORDERS: dict[RecorderName, type[Recorder]] = {
    "first_key": FirstKeyMass,
    "columns": ColumnMass,
    "rows": RowEntropy,
    "learned_sink": LearnedSinkShare,
    "logit_gap": LogitGap,
    "values": ValueNorms,
    "keys": KeyNorms,
    "outputs": HeadOutputs,
    "gates": GateScores,
    "residual": ResidualNorms,
    "massive": MassiveActivations,
    "median": MedianMagnitude,
}
# Rows and tokens of the parity check, whose eager side holds T×T weights.
_PARITY_ROWS, _PARITY_TOKENS = 2, 256


@dataclass(frozen=True)
class Measurements:
    """Results of the recorders by name; a recorder that does not apply is absent."""

    rows: Rows
    records: Mapping[RecorderName, RowRecords]
    medians: dict[int, float]

    def __contains__(self, name: str) -> bool:
        return name in self.records


def measure(
    checkpoint: Checkpoint,
    rows: Rows,
    *,
    attention: AttentionPath,
    batch_tokens: int,
    workdir: Path | None,
    progress: Callable[[int, int], None] | None,
) -> Measurements:
    """One pass over all rows with every recorder that applies to the checkpoint."""
    recorders = {name: make() for name, make in _RECORDERS.items()}
    needs = {name: recorder.needs(checkpoint) for name, recorder in recorders.items()}
    used = {name: r for name, r in recorders.items() if needs[name].sites or needs[name].demands}
    capture(
        checkpoint,
        rows,
        list(used.values()),
        batch_tokens=batch_tokens,
        attention=attention,
        workdir=workdir,
        progress=progress,
    )
    medians = used.pop("median")
    assert isinstance(medians, MedianMagnitude)
    results = {name: recorder.result() for name, recorder in used.items()}  # type: ignore[attr-defined]
    return Measurements(rows, results, medians.result())


def parity(checkpoint: Checkpoint, rows: Sequence[Row], attention: AttentionPath) -> Parity:
    """Compare the instrumented pass with the plain one, and its statistics with eager ones."""
    few = [_cut(row) for row in rows[:_PARITY_ROWS]]
    inputs = padded(few, checkpoint)
    real = inputs["attention_mask"].bool()
    with torch.inference_mode():
        plain = checkpoint.model(**inputs, use_cache=False).logits.float()
        streamed, logits = _statistics(checkpoint, inputs, attention)
        statistics = _without_reference(checkpoint, attention)
        if statistics is None:
            eager, _ = _statistics(checkpoint, inputs, "eager")
            statistics = _largest(streamed, eager)
    return Parity(
        max_logit_difference=float((logits - plain)[real].abs().max()),
        largest_logit=float(plain[real].abs().max()),
        max_statistic_difference=statistics,
    )


def _without_reference(
    checkpoint: Checkpoint, attention: AttentionPath
) -> float | NotMeasured | None:
    """Why the statistics have no eager weights to be compared with; None if they have."""
    if attention == "eager" or not checkpoint.anatomy.interface:
        return NotMeasured("the statistics are those of the eager weights themselves")
    if checkpoint.dtype != torch.float32:
        return NotMeasured("eager weights are rounded in half precision and so no reference")
    return None


def _cut(row: Row) -> Row:
    return Row(row.index, row.ids[:_PARITY_TOKENS], row.domain)


def _statistics(
    checkpoint: Checkpoint, inputs: dict[str, torch.Tensor], attention: AttentionPath
) -> tuple[dict[int, AttentionStatistics], torch.Tensor]:
    anatomy = checkpoint.anatomy
    real = inputs["attention_mask"].bool()
    demand = Demand(chosen=True, column=True, entropy=True, square=True, learned_sink=True)
    found: dict[int, AttentionStatistics] = {}

    def receive(call: AttentionCall) -> None:
        if call.statistics is not None:
            found[call.layer] = call.statistics

    first = torch.zeros(real.shape[0], 1, dtype=torch.long, device=real.device)
    taps = {layer: Tap(receive, demand, real, first) for layer in anatomy.softmax_layers}
    if anatomy.interface:
        with observe(checkpoint.model, anatomy, taps, attention):
            logits = checkpoint.model(**inputs, use_cache=False).logits.float()
    else:
        with observe_weights(checkpoint, taps):
            output = checkpoint.model(**inputs, use_cache=False, output_attentions=True)
            logits = output.logits.float()
    return found, logits


def _largest(ours: dict[int, AttentionStatistics], theirs: dict[int, AttentionStatistics]) -> float:
    largest = 0.0
    for layer, statistics in ours.items():
        for name in ("chosen", "column", "entropy", "square", "learned_sink"):
            left, right = getattr(statistics, name), getattr(theirs[layer], name)
            if left is not None:
                relative = (left - right).abs() / right.abs().clamp_min(1.0)
                largest = max(largest, float(relative.max()))
    return largest
