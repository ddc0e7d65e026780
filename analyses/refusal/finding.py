"""The refusal finding, put together from measurements."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.refusal.material import Material, clusters_of
from analyses.refusal.measuring.causal import EDITS
from analyses.refusal.measuring.choosing import Choice
from analyses.refusal.measuring.speak import Said
from analyses.refusal.verdict import verdict
from analyses.report.panel import Drawing
from analyses.shared.finding import Finding
from analyses.shared.prompts import is_harmful
from interp.checkpoint import Checkpoint
from probes.directions.directions import Direction, Directions
from probes.scorers import Verdict

FORMAT_VERSION = 1
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


def build(
    checkpoint: Checkpoint,
    material: Material,
    found: dict[str, Any],
    provenance: dict[str, Any],
) -> RefusalFinding:
    """The report and its tables; no model runs here."""
    choice: Choice = found["choice"]
    direction: Direction | None = found["direction"]
    transcripts = _transcripts(found["said"])
    report: dict[str, Any] = {
        "kind": "refusal",
        "format_version": FORMAT_VERSION,
        "verdict": "",
        "provenance": provenance,
        "direction": _direction(direction, choice),
        "separation": found["separation"],
        "harmfulness": found["harmfulness"],
        "rates": _rates(found["rates"]),
        "scorers": found["scorers"],
        "selection": choice.table.to_dict(orient="records"),
        "refusal_tokens": found["refusal_tokens"],
        "refusal_separation": found["refusal_separation"],
        "geometry": found["geometry"],
        "cosine_map": found["cosine_map"],
        "beliefs": found["beliefs"],
        "inversion": found["inversion"],
        "inversion_unplaced": found["inversion_unplaced"],
        "harm_added": found["harm_added"],
        "random_rates": found.get("random_rates", []),
        "dose_response": found.get("dose_response", []),
        "first_divergence": found.get("first_divergence"),
        "utility": found.get("utility", []),
        "attribution": found.get("attribution", []),
        "strips": found.get("strips", []),
        "surface": material.surface,
        "transcripts": transcripts,
    }
    report["caveats"] = [*material.caveats, *_caveats(checkpoint, material, report)]
    tables = {
        "candidates": choice.table,
        **{
            name: pd.DataFrame(report[name])
            for name in (
                "separation",
                "refusal_separation",
                "geometry",
                "dose_response",
                "inversion",
                "transcripts",
            )
        },
        "rates": _rate_table(report["rates"]),
    }
    from analyses.report.writing import plain

    report["verdict"] = verdict(plain(report))
    return RefusalFinding(report, tables, found["directions"], direction)


def _direction(direction: Direction | None, choice: Choice) -> dict[str, Any]:
    """The selected candidate, or nulls with the counts and, where none was tried, the reason."""
    names = ("layer", "position", "segment", "bypass", "induce", "kl")
    selection = choice.selection
    if selection is None:
        return {
            **dict.fromkeys(names), "survivors": 0, "candidates": 0, "why_not": choice.why_not
        }  # fmt: skip
    counts = {"survivors": selection.survivors, "candidates": len(selection.table), "why_not": None}
    if direction is None:
        return {**dict.fromkeys(names), **counts}
    table = selection.table
    row = table[(table["layer"] == direction.layer) & (table["position"] == direction.position)]
    chosen = row.iloc[0]
    return {
        "layer": direction.layer,
        "position": direction.position,
        "segment": direction.segment,
        "bypass": float(chosen["bypass"]),
        "induce": float(chosen["induce"]),
        "kl": float(chosen["kl"]),
        **counts,
        "chosen_share": float(chosen["chosen_share"]),
        "near_ties": int(table["near_tie"].sum()),
        "norm": direction.norm,
        "relative_norm": direction.norm / direction.residual_norm,
    }


def _rates(measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """All three sets under all five edits; None for what was not measured."""
    return {
        name: {edit: measured[name].get(edit) for edit in EDITS} if name in measured else None
        for name in ("harmful", "harmless", "over_refusal")
    }


def _rate_table(rates: dict[str, dict[str, Any] | None]) -> pd.DataFrame:
    rows = []
    for name, by_edit in rates.items():
        for edit, one in (by_edit or {}).items():
            if one is not None:
                low, high = one["interval"]
                kept = {k: v for k, v in one.items() if not isinstance(v, (list, dict))}
                compliant = (one.get("compliant") or {}).get("rate")
                rows.append(
                    {"set": name, "edit": edit, **kept, "low": low, "high": high,
                     "compliant": compliant}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _transcripts(said: dict[str, dict[str, Said]]) -> list[dict[str, Any]]:
    """Prompts with the answers under every edit; what a harmful prompt was granted is redacted."""
    records = []
    for name, by_edit in said.items():
        for i in range(min(_TRANSCRIPTS, len(by_edit["base"]))):
            prompt = by_edit["base"].prompts[i]
            record: dict[str, Any] = {"set": name, "prompt": prompt.text[:_LONGEST]}
            for edit, answered in by_edit.items():
                kept = answered.verdicts[i] == Verdict.refusal or not is_harmful(prompt)
                text = answered.answers[i].text
                shown = text[:_LONGEST] + ("…" if len(text) > _LONGEST else "")
                words = len(text.split())
                record[edit] = shown if kept else f"{REDACTED} {words} words"
                record[f"{edit}_verdict"] = str(answered.verdicts[i])
            thinking = by_edit["base"].answers[i].thinking
            if thinking is not None:
                record["thinking"] = REDACTED if is_harmful(prompt) else thinking[:_LONGEST]
            records.append(record)
    return records


def _caveats(checkpoint: Checkpoint, material: Material, report: dict[str, Any]) -> list[str]:
    """What the finding does not establish."""
    return [
        note
        for notes in (
            _about_selection(report),
            _about_scoring(material, report),
            _about_floors(report),
            _about_cells(report),
            _about_clusters(material),
            _about_inversion(report),
            _always(),
        )
        for note in notes
    ]


def _about_selection(report: dict[str, Any]) -> list[str]:
    direction = report["direction"]
    if direction["why_not"] is not None:
        return [
            f"No refusal direction could be selected: {direction['why_not']}. Candidates are "
            "scored by the first token of answers, so nothing is ablated or added here and "
            "log-odds of refusal are left out; rates, over-refusal, and what is read of "
            "harmfulness and refusal come from whole answers and do not need it."
        ]
    if direction["layer"] is None:
        reasons = Counter(row["discarded"] for row in report["selection"])
        told = ", ".join(f"{count} by {reason}" for reason, count in reasons.items())
        return [
            f"None of the {direction['candidates']} candidates passes the filters of Arditi et "
            f"al. ({told}), so nothing is ablated or added. That does not show that no direction "
            "carries refusal: only differences in means were tried, at these layers and positions."
        ]
    notes = []
    if direction["near_ties"]:
        notes.append(
            f"{direction['near_ties']} further candidates cannot be told from the selected one on "
            f"the validation prompts; it is chosen in {direction['chosen_share']:.0%} of bootstrap "
            "resamples."
        )
    harmful = report["rates"]["harmful"]
    left = harmful["ablated"]["rate"]
    if left > 0.5 * harmful["base"]["rate"]:
        notes.append(
            f"With the selected direction ablated everywhere {left:.0%} of harmful prompts are "
            "still refused whole: no single direction among the candidates carries refusal, though "
            "the log-odds of its first token, by which candidates are selected, fell."
        )
    return notes


def _about_scoring(material: Material, report: dict[str, Any]) -> list[str]:
    scorer = report["scorers"]["counted"]
    if "prefix contrast" not in report["scorers"]["verdicts"]:
        notes = ["Openings were not scored: the tokenizer cannot encode the usual ones."]
        return [*notes, *_about_scorer(material, scorer)]
    return _about_scorer(material, scorer)


def _about_scorer(material: Material, scorer: str) -> list[str]:
    if material.refusals:
        return [f"A refusal counts when the whole text of one is there (scorer: {scorer})."]
    return [
        f"Refusals are told by the scorer {scorer!r}; a rule on wording takes an evasion for "
        "compliance and an apology for a refusal. See how the scorers agree."
    ]


def _about_floors(report: dict[str, Any]) -> list[str]:
    best = max(report["separation"], key=lambda one: one["auroc"])
    floor = best["last_token_floor"]
    if floor <= 0.6:
        return []
    return [
        f"At position {best['segment_position']} the token alone tells the classes with AUROC "
        f"{floor:.3f}; only what lies above that floor is read from the context, and the "
        "shuffled-label null does not see such a confound."
    ]


def _about_cells(report: dict[str, Any]) -> list[str]:
    cells = report["harmfulness"]["cells"]["train"]
    few = [name.replace("_", " ") for name, count in cells.items() if count < 8]
    if not few:
        return []
    return [
        f"There are fewer than 8 training prompts of {', '.join(few)}; with such cells thin or "
        "empty, harmfulness and refusal go together in the prompts and cannot be told apart by "
        "them."
    ]


def _about_clusters(material: Material) -> list[str]:
    harmful = np.array([is_harmful(prompt) for prompt in material.test])
    names = clusters_of(material.test.prompts, harmful)
    if names is not None:
        return [
            f"The {len(names)} test prompts share verb and object, or their group, so that there "
            f"are {len(set(names))} different ones: intervals of AUROCs resample these, and all "
            "other intervals take prompts as independent."
        ]
    if material.refusals:
        return []  # an organism's, of which no two share a pair
    return [
        "Intervals take prompts as independent: where several share a wording they are too narrow. "
        "A column `group` in the files of prompts, equal for those that do, has them resampled "
        "together."
    ]


def _about_inversion(report: dict[str, Any]) -> list[str]:
    count = report["inversion_unplaced"]
    if not count:
        return []
    return [
        f"In {count} requests of the inversion test the question could not be told from the "
        "request, because the tokenizer changes its text: there the direction is added to the "
        "first token of the request alone, and does less than it might."
    ]


def _always() -> list[str]:
    return [
        "Greedy decoding, one system prompt, no attack that adapts to the directions: rates under "
        "sampling, other templates or pressure may differ.",
        "A direction that is read is not thereby used; only the ablations and additions speak of "
        "causes, and they speak of this layer and this length.",
    ]
