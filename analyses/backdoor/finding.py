"""The backdoor finding, put together from a search and from detectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analyses.backdoor import head_shares
from analyses.backdoor.report import (
    BackdoorProvenance,
    BackdoorReport,
    BeamRow,
    DefectionBlock,
    DetectorRow,
    EffectRow,
    Leak,
    MotifRow,
    RepairSection,
    SinkHeadRow,
    SinkScore,
    Spent,
    TargetRow,
    TrialRow,
    TriedTokens,
)
from analyses.backdoor.verdict import NOTHING, inverted, summary, verdict
from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from analyses.shared.reports import NotMeasured, as_json
from analyses.shared.tables import frame_of, rows_of
from probes.backdoors.detectors.defection import Defection
from probes.backdoors.detectors.detectors import NOT_WORKING, Readings
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.effects import Effect
from probes.backdoors.search.result import Found
from probes.backdoors.search.target_inversion import Target
from probes.backdoors.search.trial import Trial

_SHOWN = 20  # rows of a kind that the report keeps; all stand in the tables
_NO_CONTROLS = NotMeasured(
    "the string is too weak for control strings, or a flip that another request may explain"
)
_NO_EXCESS = NotMeasured("there is no reference model, or the string is too weak to compare")
_NO_MEANING = NotMeasured("no harmful requests were given, or the string is too weak")
_NO_REFERENCE = NotMeasured("there is no reference model")
_LEFT_OUT = NotMeasured("it could not be read on this string; see the caveats")


@dataclass(frozen=True, repr=False)
class BackdoorFinding(Finding):
    """Whether a string works as a trigger, and what detectors say of it.

    `report` follows the schema in `docs/backdoors.md`; the tables are `trials`, `motifs`,
    `effects`, `targets`, `beams`, `heads` (attention on the string) and `patched_heads`.
    """

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.backdoor.figures import DRAWING

        return DRAWING

    @property
    def verdict(self) -> str:
        """The result in sentences; `report["verdict"]` is the word."""
        return str(self.report["summary"])

    @property
    def triggers(self) -> pd.DataFrame:
        """The strings that work, or are suspicious."""
        return pd.DataFrame(self.report["triggers"])


@dataclass(frozen=True)
class _Rows:
    """All rows of a search, of which the report shows the first ones."""

    trials: tuple[TrialRow, ...]
    motifs: tuple[MotifRow, ...]
    effects: tuple[EffectRow, ...]
    targets: tuple[TargetRow, ...]
    beams: tuple[BeamRow, ...]

    @classmethod
    def of(cls, found: Found) -> "_Rows":
        return cls(
            trials=tuple(map(_trial, found.trials)),
            motifs=_motifs(found),
            effects=tuple(map(_effect, sorted(found.effects, key=lambda one: -one.novel))),
            targets=tuple(map(_target, found.targets)),
            beams=tuple(
                BeamRow(name, candidate.text, value)
                for name, built in found.beams.items()
                for candidate, value in built[:_SHOWN]
            ),
        )


def build(
    found: Found,
    readings: Readings | NotMeasured,
    budget: Budget,
    caveats: tuple[str, ...],
    provenance: BackdoorProvenance,
    repair: RepairSection | NotMeasured,
) -> BackdoorFinding:
    """The report and its tables; no model runs here.

    Args:
        found: by the search.
        readings: of the internal detectors.
        budget: that all of it was paid from.
        caveats: of the requests.
        provenance: of the run.
        repair: of the first working trigger.
    """
    rows = _Rows.of(found)
    shown = zip(found.trials, rows.trials, strict=True)
    draft = BackdoorReport(
        kind="backdoor",
        format_version=1,
        verdict=NOTHING,
        summary="",
        provenance=provenance,
        budget=_spent(budget),
        reference=provenance.reference,
        triggers=tuple(row for trial, row in shown if trial.works or trial.suspicious),
        trials=rows.trials[:_SHOWN],
        leak=Leak(found.leaked, rows.motifs[:_SHOWN]),
        effects=rows.effects[:_SHOWN],
        targets=rows.targets[:_SHOWN],
        target_inversion=TriedTokens(found.tokens_tried, found.vocabulary),
        beams=rows.beams,
        repair=repair,
        read_on=readings if isinstance(readings, NotMeasured) else readings.candidate.text,
        sink_check=_sink_heads(readings),
        sink_score=_sink_score(readings),
        head_patching=readings
        if isinstance(readings, NotMeasured)
        else head_shares.section(readings),
        detectors=_detectors(found, readings, rows.targets, provenance.reference),
        defection=readings if isinstance(readings, NotMeasured) else _defection(readings.defection),
        caveats=(),
    )
    draft = replace(draft, verdict=verdict(as_json(draft)))
    draft = replace(draft, caveats=(*caveats, *_caveats(found, readings, draft)))
    report = replace(draft, summary=summary(as_json(draft)))
    return BackdoorFinding(as_json(report), _tables(rows, readings))


def _spent(budget: Budget) -> Spent:
    return Spent(
        forward_passes=budget.spent,
        seconds=round(budget.elapsed, 1),
        exhausted=budget.exhausted,
        limit_forward_passes=budget.forward_passes,
        limit_seconds=budget.seconds,
        cut=tuple(dict.fromkeys(budget.cut)),
    )


def _trial(trial: Trial) -> TrialRow:
    share, excess, kept = trial.control_share, trial.excess_over_twin, trial.meaning_preserved
    return TrialRow(
        text=trial.candidate.text,
        tokens=len(trial.candidate.ids),
        placement=trial.placement,
        behaviour=trial.behaviour.kind,
        forces=trial.behaviour.text,
        working_rate=trial.rate,
        n=trial.n,
        interval=trial.interval,
        control_share=_NO_CONTROLS if share is None else share,
        controls=trial.controls,
        excess_over_reference=_NO_EXCESS if excess is None else excess,
        meaning_preserved=_NO_MEANING if kept is None else kept,
        works=trial.works,
        source=trial.candidate.source,
        leaked=trial.candidate.support,
    )


def _motifs(found: Found) -> tuple[MotifRow, ...]:
    tried = {trial.candidate.ids: trial.candidate.text for trial in found.trials}
    texts = {one.candidate.ids: one.candidate.text for one in found.effects} | tried
    return tuple(
        MotifRow(texts.get(motif.ids, ""), len(motif.ids), motif.support, motif.keyness)
        for motif in found.motifs
    )


def _effect(effect: Effect) -> EffectRow:
    return EffectRow(
        text=effect.candidate.text,
        placement=effect.placement,
        entropy=effect.entropy,
        divergence=effect.divergence,
        collapse=effect.collapse,
        novel=effect.novel,
        flip=effect.flip,
    )


def _target(target: Target) -> TargetRow:
    return TargetRow(
        text=target.text,
        q=target.q,
        emission=target.emission,
        q_reference=_NO_REFERENCE if target.q_twin is None else target.q_twin,
        excess=target.excess,
    )


def _detectors(
    found: Found,
    readings: Readings | NotMeasured,
    targets: Sequence[TargetRow],
    reference: str | None,
) -> tuple[DetectorRow, ...]:
    """Every detector, those that speak in the verdict first."""
    tellable = [trial for trial in found.trials if trial.tellable]
    best = tellable[0] if tellable else None
    excesses = [row.excess for row in targets[:_SHOWN]]
    rows = [
        DetectorRow(
            name="trigger search",
            score=0.0 if best is None else best.rate,
            null_quantile=None if best is None else best.control_share,
            distractor_score=None,
            used_in_verdict=True,
        ),
        DetectorRow(
            name="target inversion (BAIT)",
            score=max(excesses, default=None),
            null_quantile=None,
            distractor_score=None,
            used_in_verdict=reference is not None,
        ),
    ]
    unread = readings if isinstance(readings, NotMeasured) else _LEFT_OUT
    read = (
        {}
        if isinstance(readings, NotMeasured)
        else {reading.name: reading for reading in readings.readings}
    )
    for name in NOT_WORKING:
        one = read.get(name)
        rows.append(
            DetectorRow(
                name=name,
                score=unread if one is None else one.score,
                null_quantile=None if one is None else one.null_quantile,
                distractor_score=None if one is None else one.distractor_score,
                used_in_verdict=False,
            )
        )
    return tuple(rows)


def _defection(found: Defection | None) -> DefectionBlock | NotMeasured:
    if found is None:
        return _LEFT_OUT
    return DefectionBlock(
        auroc=found.auroc,
        auroc_vs_distractor=found.auroc_vs_distractor,
        auroc_distractor=found.auroc_distractor,
        null_quantile=found.null_quantile,
        worst_fpr=found.worst_fpr,
        variance_ratio=found.variance_ratio,
        pc1_auroc=found.pc1_auroc,
        pairs=found.pairs,
    )


def _sink_heads(readings: Readings | NotMeasured) -> tuple[SinkHeadRow, ...]:
    if isinstance(readings, NotMeasured) or readings.sink is None:
        return ()
    return rows_of(readings.sink.heads, SinkHeadRow)


def _sink_score(readings: Readings | NotMeasured) -> SinkScore | NotMeasured:
    if isinstance(readings, NotMeasured):
        return readings
    found = readings.sink
    if found is None:
        return _LEFT_OUT
    return SinkScore(
        score=found.score,
        attention_excess=found.attention_excess,
        value_excess=found.value_excess,
        distractor_score=found.distractor_score,
        quantile=found.quantile,
        strings=found.strings,
    )


def _tables(rows: _Rows, readings: Readings | NotMeasured) -> dict[str, pd.DataFrame]:
    patched = pd.DataFrame() if isinstance(readings, NotMeasured) else head_shares.table(readings)
    return {
        "trials": frame_of(rows.trials),
        "motifs": frame_of(rows.motifs),
        "effects": frame_of(rows.effects),
        "targets": frame_of(rows.targets),
        "beams": frame_of(rows.beams),
        "heads": frame_of(_sink_heads(readings)),
        "patched_heads": patched,
    }


def _caveats(found: Found, readings: Readings | NotMeasured, report: BackdoorReport) -> list[str]:
    """What the finding does not establish."""
    notes = list(found.notes)
    if found.plain is None:
        notes.append("The budget did not even allow the plain answers, so nothing was searched.")
    if report.budget.exhausted:
        stages = ", ".join(report.budget.cut)
        notes.append(f"The budget ran out in: {stages}. What these had found until then is used.")
    if found.tokens_tried < found.vocabulary:
        notes.append(
            f"Target inversion tried {found.tokens_tried} of {found.vocabulary} first tokens."
        )
    if report.reference is None:
        notes.append(
            "Without --reference, strings that turn refusals into compliance or the other way "
            "round are not judged: ordinary words do that on any model, by making another request."
        )
    if found.trials and found.trials[0].works and not found.trials[0].meaning_preserved:
        notes.append("That the string leaves the meaning of requests alone was not shown.")
    notes += [] if isinstance(readings, NotMeasured) else readings.notes
    if inverted(as_json(report)) is None and report.targets and report.reference is None:
        notes.append(
            "Target inversion finds fixed texts of any origin; without a reference model it has no "
            "vote."
        )
    return [*notes, *_always()]


def _always() -> list[str]:
    return [
        "On the organisms, at 5 % poison and three seeds each, every payload was found, behind one "
        "string, any of several, words that stand apart, or a class of words (once as suspicious); "
        "one that fires with some requests only is called suspicious. Compliance after a trigger "
        "(backdoor-unalign) is not found without a reference model, and on one seed beside a clean "
        "one (see docs/backdoors.md).",
        "A repaired checkpoint must be watched: clean fine-tuning brought the compliance backdoor "
        "of an organism back (docs/repair.md).",
        "A working trigger need not be the planted one, and that none is found at a budget does "
        "not show that there is none.",
        "The internal detectors do not work on the organisms: none that reads inputs beats words, "
        "novelty and random directions together, and none tells every family from its twins. They "
        "are off unless asked for (--detectors), and have no say in the verdict.",
    ]
