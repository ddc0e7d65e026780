"""The refusal finding, put together from measurements."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pandas as pd

from analyses.refusal.caveats import caveats
from analyses.refusal.material import RefusalPrompts
from analyses.refusal.measuring.causal import EDITS, NO_DIRECTION
from analyses.refusal.measuring.choosing import Choice
from analyses.refusal.measuring.speak import Responses
from analyses.refusal.report import (
    Beliefs,
    CosineMaps,
    FirstTokens,
    GeometryRow,
    Harmfulness,
    RefusalProvenance,
    RefusalReport,
    RefusalSeparationRow,
    ScorerComparison,
    SelectedDirection,
    SeparationRow,
)
from analyses.refusal.report_effects import (
    AttributionRow,
    DoseRow,
    EditRates,
    FirstDivergence,
    HarmAddedRow,
    InversionRow,
    RandomRateRow,
    RatesBySet,
    RefusalRate,
    Strip,
    Transcript,
    UtilityRow,
)
from analyses.refusal.verdict import verdict
from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from analyses.shared.prompts import is_harmful
from analyses.shared.reports import NotMeasured, Rate, as_json
from probes.directions.directions import Direction, Directions
from probes.scorers import RefusalTokens, Verdict

_TRANSCRIPTS = 12  # of a set
_LONGEST = 400  # characters of an answer that the report keeps
REDACTED = "[redacted]"
DIRECTION = "direction.safetensors"


@dataclass(frozen=True, repr=False)
class RefusalFinding(Finding):
    """How a checkpoint encodes harmfulness and refusal, and what its refusal direction does.

    `report` follows the schema in `docs/refusal.md`; the tables are `candidates`, `separation`,
    `refusal_separation`, `geometry`, `rates`, `dose_response`, `inversion` and `transcripts`.

    Attributes:
        report: what `report.json` holds.
        tables: what stands beside it as CSV.
        directions: `difference` (harmful less harmless), `harmfulness` and `refusal`, at every
            layer and position.
        direction: the selected refusal direction; None if no candidate survives.
    """

    directions: dict[str, Directions] = field(default_factory=dict)
    direction: Direction | None = None

    @classmethod
    def drawing(cls) -> Drawing:
        """The panels of this kind of finding."""
        from analyses.refusal.figures.panels import DRAWING

        return DRAWING

    @property
    def separation(self) -> pd.DataFrame:
        """A row for each layer and position."""
        return self.tables["separation"]

    @property
    def candidates(self) -> pd.DataFrame:
        """The selection table."""
        return self.tables["candidates"]

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report as every finding does, and the selected direction as an artefact.

        Raises:
            InputError: the folder cannot be written to, or holds the report of another run.
        """
        page = super().save(directory, overwrite=overwrite)
        artefact = Path(directory) / DIRECTION
        if self.direction is None:
            artefact.unlink(missing_ok=True)  # of an earlier run: it is not this report's
        else:
            self.direction.save(artefact)
        return page


@dataclass(frozen=True)
class DirectionEffects:
    """What ablating and adding the selected direction does.

    Attributes:
        responses: answers to the sets of test prompts under every edit.
        rates: of refusal in these.
        direction: the selected one; None without one.
        attribution: what heads and MLPs write along it.
        strips: its projections along prompts and answers.
        random_rates: the same rates under random directions.
        dose_response: log-odds of refusal by strength.
        first_divergence: KL where answers diverge under its ablation.
        utility: losses under its ablation.
    """

    responses: Mapping[str, Mapping[str, Responses]]
    rates: RatesBySet
    direction: Direction | None = None
    attribution: tuple[AttributionRow, ...] | NotMeasured = NO_DIRECTION
    strips: tuple[Strip, ...] | NotMeasured = NO_DIRECTION
    random_rates: tuple[RandomRateRow, ...] | NotMeasured = NO_DIRECTION
    dose_response: tuple[DoseRow, ...] | NotMeasured = NO_DIRECTION
    first_divergence: FirstDivergence | NotMeasured = NO_DIRECTION
    utility: tuple[UtilityRow, ...] | NotMeasured = NO_DIRECTION


@dataclass(frozen=True)
class RefusalMeasurements:
    """Every block of the report that comes from the model.

    Attributes:
        choice: what became of the selection.
        tokens: first tokens of refusals; None where there are none, and `choice` says why.
        directions: `difference`, `harmfulness` and `refusal`.
        effects: of the selected direction.
        separation: and the further blocks, as in the report.
    """

    choice: Choice
    tokens: RefusalTokens | None
    directions: Mapping[str, Directions]
    effects: DirectionEffects
    separation: tuple[SeparationRow, ...]
    geometry: tuple[GeometryRow, ...]
    harmfulness: Harmfulness
    refusal_separation: tuple[RefusalSeparationRow, ...]
    beliefs: Beliefs
    cosine_map: CosineMaps
    inversion: tuple[InversionRow, ...]
    inversion_unplaced: int
    harm_added: tuple[HarmAddedRow, ...]
    scorers: ScorerComparison


def build(
    material: RefusalPrompts, found: RefusalMeasurements, provenance: RefusalProvenance
) -> RefusalFinding:
    """The report and its tables; no model runs here."""
    effects = found.effects
    report = RefusalReport(
        verdict="",
        provenance=provenance,
        direction=_direction(effects.direction, found.choice),
        separation=found.separation,
        harmfulness=found.harmfulness,
        rates=effects.rates,
        scorers=found.scorers,
        selection=found.choice.rows,
        refusal_tokens=_first_tokens(found.tokens, found.choice),
        refusal_separation=found.refusal_separation,
        geometry=found.geometry,
        cosine_map=found.cosine_map,
        beliefs=found.beliefs,
        inversion=found.inversion,
        inversion_unplaced=found.inversion_unplaced,
        harm_added=found.harm_added,
        random_rates=effects.random_rates,
        dose_response=effects.dose_response,
        first_divergence=effects.first_divergence,
        utility=effects.utility,
        attribution=effects.attribution,
        strips=effects.strips,
        surface=material.surface,
        transcripts=_transcripts(effects.responses),
        caveats=(),
    )
    from analyses.report.writing import plain

    report = replace(
        report,
        verdict=verdict(plain(as_json(report))),
        caveats=(*material.caveats, *caveats(material, report)),
    )
    shown = as_json(report)
    tables = {
        "candidates": found.choice.table,
        **{
            name: pd.DataFrame(shown[name] or [])
            for name in (
                "separation", "refusal_separation", "geometry", "dose_response", "inversion"
            )
        },
        # Answers under edits that were not made have no column.
        "transcripts": pd.DataFrame(shown["transcripts"]).dropna(axis="columns", how="all"),
        "rates": _rate_table(report.rates),
    }  # fmt: skip
    return RefusalFinding(shown, tables, dict(found.directions), effects.direction)


def _direction(direction: Direction | None, choice: Choice) -> SelectedDirection:
    """The selected candidate, or the counts and the reason why there is none."""
    selection = choice.selection
    survivors, candidates = (0, 0)
    if selection is not None:
        survivors, candidates = selection.survivors, len(selection.table)
    if direction is None or selection is None:
        none = NotMeasured(choice.why_not or "no candidate passes the filters of the selection")
        return SelectedDirection(
            none, none, none, none, none, none, survivors, candidates, choice.why_not,
            none, none, none, none,
        )  # fmt: skip
    table = selection.table
    row = table[(table["layer"] == direction.layer) & (table["position"] == direction.position)]
    chosen = row.iloc[0]
    return SelectedDirection(
        layer=direction.layer,
        position=direction.position,
        segment=direction.segment,
        bypass=float(chosen["bypass"]),
        induce=float(chosen["induce"]),
        kl=float(chosen["kl"]),
        survivors=survivors,
        candidates=candidates,
        why_not=None,
        chosen_share=float(chosen["chosen_share"]),
        near_ties=int(table["near_tie"].sum()),
        norm=direction.norm,
        relative_norm=direction.norm / direction.residual_norm,
    )


def _first_tokens(tokens: RefusalTokens | None, choice: Choice) -> FirstTokens | NotMeasured:
    if tokens is None:
        return NotMeasured(choice.why_not or "no first token of refusals was found")
    return FirstTokens(
        ids=tokens.ids,
        texts=tokens.texts,
        refused=tokens.refused,
        complied=tokens.complied,
        hits=tokens.hits,
        false_alarms=tokens.false_alarms,
    )


def _rate_table(rates: RatesBySet) -> pd.DataFrame:
    """A row for each set and edit that was measured."""
    rows = []
    for one_set in fields(rates):
        by_edit: EditRates | NotMeasured = getattr(rates, one_set.name)
        for edit in EDITS if isinstance(by_edit, EditRates) else ():
            one: RefusalRate | NotMeasured = getattr(by_edit, edit)
            if isinstance(one, RefusalRate):
                rows.append({"set": one_set.name, "edit": edit, **_rate_row(one)})
    return pd.DataFrame(rows)


def _rate_row(one: RefusalRate) -> dict[str, float | None]:
    return {
        "rate": one.rate,
        "n": one.n,
        "partial": one.partial,
        "empty": one.empty,
        "looping": one.looping,
        "unclosed": one.unclosed,
        "first_token": _number(one.first_token),
        "low": one.interval[0],
        "high": one.interval[1],
        "compliant": one.compliant.rate if isinstance(one.compliant, Rate) else None,
    }


def _number(value: float | NotMeasured) -> float | None:
    return None if isinstance(value, NotMeasured) else value


def _transcripts(responses: Mapping[str, Mapping[str, Responses]]) -> tuple[Transcript, ...]:
    """Prompts with the answers under every edit; what a harmful prompt was granted is redacted."""
    return tuple(
        _transcript(name, by_edit, i)
        for name, by_edit in responses.items()
        for i in range(min(_TRANSCRIPTS, len(by_edit["base"])))
    )


def _transcript(name: str, by_edit: Mapping[str, Responses], i: int) -> Transcript:
    base = by_edit["base"]
    prompt, thinking = base.prompts[i], base.answers[i].thinking
    if thinking is not None:
        thinking = REDACTED if is_harmful(prompt) else thinking[:_LONGEST]
    text, verdict_on_base = _shown(base, i)
    ablated, affine, added, added_all = (
        _shown(by_edit[edit], i) if edit in by_edit else (NO_DIRECTION, NO_DIRECTION)
        for edit in EDITS[1:]
    )
    return Transcript(
        set=name,
        prompt=prompt.text[:_LONGEST],
        base=text,
        base_verdict=verdict_on_base,
        ablated=ablated[0],
        ablated_verdict=ablated[1],
        ablated_affine=affine[0],
        ablated_affine_verdict=affine[1],
        added=added[0],
        added_verdict=added[1],
        added_all=added_all[0],
        added_all_verdict=added_all[1],
        thinking=thinking,
    )


def _shown(responses: Responses, i: int) -> tuple[str, str]:
    """An answer as the report shows it, and its verdict."""
    judgement, text = responses.verdicts[i], responses.answers[i].text
    if judgement != Verdict.refusal and is_harmful(responses.prompts[i]):
        return f"{REDACTED} {len(text.split())} words", str(judgement)
    return text[:_LONGEST] + ("…" if len(text) > _LONGEST else ""), str(judgement)
