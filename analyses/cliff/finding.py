"""The cliff finding, put together from measurements."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from analyses.cliff.measure import CliffSettings, Measured
from analyses.cliff.report import (
    AblationRow,
    CliffProvenance,
    CliffReport,
    CliffSettingsBlock,
    Fall,
    HeadName,
    HeadRow,
    ProbeQuality,
    Rates,
    SelectorRow,
)
from analyses.cliff.training import TrainedCopy
from analyses.cliff.verdict import verdict
from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from analyses.shared.reports import NotMeasured, as_json
from analyses.shared.tables import frame_of
from probes.cliff.example_selection import SELECTORS, select
from probes.cliff.rows import AblationCondition, HeadEffect, NaturalStop
from probes.heads.head_ablation import Head

FRACTIONS = (0.02, 0.05, 1.0)
_SHOWN_PAIRS = 50  # in the report; the table has them all
_NOT_SILENCED = NotMeasured("only the named heads were silenced by themselves")
_NO_NULL = NotMeasured("its layer has no other head to be its null, or it was not silenced")
_HARMFUL_ONLY = NotMeasured("random sets of heads were silenced on harmful requests only")
_NOT_KNOWN = NotMeasured("what an answer that complies says is known of organisms only")
_ONE_KIND = NotMeasured("test requests were all refused, or none was")

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class CliffFinding(Finding):
    """Whether refusal falls at the end of a model's thought, and which heads let it fall.

    `report` follows the schema in `docs/cliff.md`; the tables are `forced_stop`, `trajectory`,
    `heads`, `ablations`, `pairs`, `prompts` and `selectors`.

    Attributes:
        report: what `report.json` holds.
        tables: by name.
        trained: the copy that was fine-tuned on selected examples, if one was asked for; it is no
            part of the report.
    """

    trained: TrainedCopy | None = None

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.cliff.figures import DRAWING

        return DRAWING

    @property
    def heads(self) -> pd.DataFrame:
        """One row a head, the strongest direct suppression first."""
        return self.tables["heads"]

    @property
    def trajectory(self) -> pd.DataFrame:
        """The probe along prompt, thought and closing marker."""
        return self.tables["trajectory"]


def build(
    found: Measured,
    settings: CliffSettings,
    provenance: CliffProvenance,
    caveats: tuple[str, ...],
    trained: TrainedCopy | None = None,
) -> CliffFinding:
    """Put all tables and the head numbers together; no model runs here.

    Args:
        found: the measurements.
        settings: of the run.
        provenance: of the run.
        caveats: of the requests.
        trained: the fine-tuned copy, if there is one.
    """
    from analyses.report.writing import plain

    curve = found.curve.points(settings.seed)
    selectors = _selectors(found.judged, settings.seed)
    report = CliffReport(
        kind="cliff",
        format_version=1,
        verdict="",
        provenance=provenance,
        forced_stop=found.forced,
        natural=found.natural,
        trajectory=curve,
        cliff=_fall(found),
        heads=tuple(_head(effect) for effect in found.heads.heads),
        suppression_heads=_names(found.heads.suppression),
        rates=Rates(*(_refusals(found, label) for label in ("harmful", "harmless", "alarming"))),
        ablations=tuple(_ablation(condition) for condition in found.heads.conditions),
        pairs=found.heads.pairs[:_SHOWN_PAIRS],
        probe=_probe(found),
        selectors=selectors,
        causality_leak=found.leak,
        settings=CliffSettingsBlock(
            closing=settings.markers.closing.strip(),
            stop_text=settings.stop_text.strip(),
            thinking_budget=settings.thinking_budget,
            max_new_tokens=settings.max_new_tokens,
            exhaustive=settings.exhaustive,
            named_heads=_names(found.heads.top),
        ),
        caveats=(*caveats, *_caveats(found, settings)),
    )
    report = replace(report, verdict=verdict(plain(as_json(report))))
    tables = {
        "forced_stop": frame_of(found.forced),
        "trajectory": frame_of(curve),
        "heads": frame_of(found.heads.heads),
        "ablations": frame_of(found.heads.conditions),
        "pairs": frame_of(found.heads.pairs),
        "prompts": found.judged,
        "selectors": frame_of(selectors),
    }
    return CliffFinding(plain(as_json(report)), tables, trained)


def _fall(found: Measured) -> Fall:
    fall = found.fall
    return Fall(
        plateau=fall.plateau,
        final=fall.final,
        depth=fall.depth,
        token_index=fall.token_index,
        interval=fall.interval,
        from_end=fall.from_end,
        plateau_interval=fall.plateau_interval,
        final_interval=fall.final_interval,
        n=(len(found.curve.harmful), len(found.curve.harmless)),
    )


def _head(effect: HeadEffect) -> HeadRow:
    return HeadRow(
        layer=effect.layer,
        head=effect.head,
        contribution=effect.contribution,
        rank=effect.rank,
        ablated_refusal=_or(effect.ablated_refusal, _NOT_SILENCED),
        interval=_or(effect.interval, _NOT_SILENCED),
        null_high=_or(effect.null_high, _NO_NULL),
        null_heads=effect.null_heads,
        suppresses=effect.suppresses,
    )


def _ablation(condition: AblationCondition) -> AblationRow:
    return AblationRow(
        condition=condition.condition,
        heads=condition.heads,
        norm_restored=condition.norm_restored,
        refusal=condition.refusal,
        refusal_low=condition.refusal_low,
        refusal_high=condition.refusal_high,
        refusal_n=condition.refusal_n,
        over_refusal=_or(condition.over_refusal, _HARMFUL_ONLY),
        over_refusal_low=_or(condition.over_refusal_low, _HARMFUL_ONLY),
        over_refusal_high=_or(condition.over_refusal_high, _HARMFUL_ONLY),
        over_refusal_n=_or(condition.over_refusal_n, _HARMFUL_ONLY),
        kl=_or(condition.kl, _HARMFUL_ONLY),
        compliant=_or(condition.compliant, _HARMFUL_ONLY if condition.kl is None else _NOT_KNOWN),
    )


def _or(value: T | None, reason: NotMeasured) -> T | NotMeasured:
    return reason if value is None else value


def _names(heads: Sequence[Head]) -> tuple[HeadName, ...]:
    return tuple(HeadName(layer, head) for layer, head in heads)


def _refusals(found: Measured, label: str) -> NaturalStop:
    """Refusal behind natural thoughts of one label; n 0 where there are no such requests."""
    return found.rates.get(label, NaturalStop(None, 0, None))


def _probe(found: Measured) -> ProbeQuality:
    area = found.probe_auroc
    return ProbeQuality(
        cells=found.answer_probe.counts,
        cells_with_thoughts=found.probe.counts,
        missing=found.answer_probe.missing,
        auroc=_ONE_KIND if area is None else area.value,
        interval=_ONE_KIND if area is None else area.interval,
        n=_ONE_KIND if area is None else (area.positives, area.negatives),
    )


def _selectors(table: pd.DataFrame, seed: int) -> tuple[SelectorRow, ...]:
    """How many of the chosen complied although their thought means to refuse."""
    if table.empty:
        return ()
    by_row = table.set_index("row")
    rows = []
    for fraction in FRACTIONS:
        for selector in SELECTORS:
            chosen = by_row.loc[select(table, selector, fraction, seed)]
            rows.append(
                SelectorRow(
                    selector=selector,
                    percent=100 * fraction,
                    n=len(chosen),
                    complied=float((~chosen["refused"]).mean()),
                    mean_depth=float(chosen["depth"].mean()),
                )
            )
    return tuple(rows)


def _caveats(found: Measured, settings: CliffSettings) -> list[str]:
    """What a reader must know before using the numbers; only what applies."""
    notes = []
    if found.answer_probe.missing:
        cells = " and ".join(cell.replace("_", " ") for cell in found.answer_probe.missing)
        notes.append(
            f"The model gave no {cells} request to learn from, so the probe reads harmfulness "
            "together with refusal."
        )
    unclosed = sum(rate.unclosed for rate in found.rates.values())
    if unclosed:
        notes.append(
            f"{unclosed} thoughts did not close within {settings.thinking_budget} tokens; they are "
            "in no rate and in no curve."
        )
    without = sum(rate.without_thought for rate in found.rates.values())
    if without:
        notes.append(f"{without} requests were answered without a thought; they are left out.")
    notes.append(
        "Inside thoughts the probe learned from what the model does when it is stopped there, "
        "where refusal mostly goes with harmfulness; the forced stops say what it would do."
    )
    if settings.stop_text.strip() == settings.markers.closing.strip():
        notes.append(
            "The thought is cut with the marker that closes it, so a cut behind its last token is "
            "the natural end again."
        )
    notes.append(
        "A head's contribution is what it writes straight into the probe; a head that acts through "
        "later layers is found by ablation only"
        + ("." if settings.exhaustive else ", and only the named heads were ablated.")
    )
    least = min(head.null_heads for head in found.heads.heads)
    notes.append(
        f"The null of a head is what other heads of its layer do when silenced, {least} of them at "
        "the least; heads that stand in for each other show nothing alone."
    )
    notes.append(
        "Plateau, final value, depth and the token of the drop are definitions of ours; the "
        "literature gives no formula. Answers are greedy."
    )
    return notes
