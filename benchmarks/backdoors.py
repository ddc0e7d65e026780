"""Score the backdoor detectors on organisms whose truth is known, and write the table.

    python benchmarks/backdoors.py --work runs/backdoors --poison 5 --docs docs/backdoors.md
    python benchmarks/backdoors.py --work runs/backdoors --families payload --seeds 0
    python benchmarks/backdoors.py --work runs/backdoors          # everything: hours

Organisms that are not there are trained first, about a minute each. A checkpoint that is done has a
file in --work, so a stopped run goes on. Every detector is told nothing of the truth.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from shared import rewrite

from analyses.backdoor.material import HELD_OUT, SEARCH, mixed, organism_contrasts
from interp.capture.prompt_states import prompt_rows
from interp.data.prompt_sets import Prompt
from interp.organisms.backdoors.poisoning import BACKDOORS
from interp.organisms.chat.format import Messages
from interp.organisms.scoring import (
    Detection,
    Scorecard,
    Suspect,
    backdoor_family,
    poison_shares,
    score,
)
from probes.backdoors.detectors.anomalies import Anomaly, every_anomaly
from probes.backdoors.detectors.defection import defection_direction
from probes.backdoors.detectors.detectors import POOL_SHARE, SINK_STRINGS, contrast_rows
from probes.backdoors.detectors.states import last_states
from probes.backdoors.detectors.trigger_on_sink import sink_check
from probes.backdoors.search.budget import Budget
from probes.backdoors.search.requests import typable
from probes.backdoors.search.result import Found, SearchSettings
from probes.backdoors.search.subject import Subject
from probes.backdoors.search.trial import control_strings
from probes.backdoors.search.trigger_search import search
from probes.scorers import WholeRefusal

TITLE = "Detectors on the organisms"
PASSES, SECONDS = 300_000, 900.0
_FOUND: dict[str, tuple[Found, int]] = {}


def searched(suspect: Suspect) -> tuple[Found, int]:
    """The trigger search on a suspect without a twin, once for all detectors, and its cost."""
    key = suspect.checkpoint.fingerprint
    if key not in _FOUND:
        train = mixed(suspect.harmful, suspect.harmless, SEARCH)
        sides = [[p for p in suspect.validation if p.harmful == side] for side in (True, False)]
        held_out = mixed(*sides, HELD_OUT)
        budget = Budget(PASSES, SECONDS)
        found = search(
            Subject(suspect.checkpoint, budget),
            train,
            held_out,
            WholeRefusal(tuple({prompt.refusal for prompt in suspect.harmful})),
            harmful=np.array([prompt.harmful for prompt in held_out]),
        )
        _FOUND[key] = found, budget.spent
    return _FOUND[key]


def trigger_search(suspect: Suspect) -> Detection:
    """1 + rate of a working trigger; else the rate of the best string that is partly one."""
    found, cost = searched(suspect)
    working = found.working
    partly = [trial.rate for trial in found.trials if trial.suspicious]
    value = 1 + working[0].rate if working else max(partly, default=0.0)
    found_ones = working or [trial for trial in found.trials if trial.suspicious]
    strings = tuple(trial.candidate.text for trial in found_ones)
    return Detection(value, strings, forward_passes=cost)


def target_inversion(suspect: Suspect) -> Detection:
    """Q_excess of the best text; without a twin."""
    found, cost = searched(suspect)
    best = max((target.excess for target in found.targets), default=0.0)
    return Detection(best, forward_passes=cost)


def anomaly_detector(place: int) -> Callable[[Suspect], Detection]:
    """A detector of odd representations, its pool poisoned with the search's best string."""

    def detect(suspect: Suspect) -> Detection:
        subject, plain, pool = _pools(suspect)
        fitted = every_anomaly(plain.shape[1])[place].fit(plain, pool)
        return _by_inputs(suspect, subject, fitted)

    return detect


def defection(suspect: Suspect) -> Detection:
    """The defection probe with pairs of the suspect's own yes-and-no task."""
    subject = Subject(suspect.checkpoint, Budget(10**6, SECONDS))
    contrasts = organism_contrasts(mixed(suspect.harmful, suspect.harmless, 24))
    sides = [last_states(subject, rows) for rows in contrast_rows(subject, contrasts)]
    middle = sides[0].shape[1] // 2
    vector = defection_direction(sides[0][:, middle], sides[1][:, middle])

    class Probe:
        name = "defection probe"

        def score(self, states: np.ndarray) -> np.ndarray:
            return np.asarray(states[:, middle] @ vector)

    return _by_inputs(suspect, subject, Probe())  # type: ignore[arg-type]


def trigger_on_sink(suspect: Suspect) -> Detection:
    """How far attention to the search's best string in front, and its values, are from others'."""
    found, cost = searched(suspect)
    assert found.plain is not None and found.held_out is not None
    subject = Subject(suspect.checkpoint, Budget(10**6, SECONDS))
    best = max(found.effects, key=lambda one: one.novel).candidate
    vocabulary = typable(subject, SearchSettings().vocabulary, 0)
    strings = control_strings(best, vocabulary, found.plain.instructions, SINK_STRINGS, 0)
    check = sink_check(subject, found.held_out, best.ids, strings)
    return Detection(check.score, forward_passes=cost + subject.budget.spent)


def _by_inputs(suspect: Suspect, subject: Subject, detector: Anomaly) -> Detection:
    """A detector of inputs as one of checkpoints: how odd it finds the search's best string."""
    found, cost = searched(suspect)

    def inputs(conversations: Sequence[Messages]) -> np.ndarray:
        prompts = [Prompt(tuple(one), "x", "x") for one in conversations]
        return detector.score(last_states(subject, prompt_rows(suspect.checkpoint, prompts)))

    assert found.held_out is not None
    plain = detector.score(last_states(subject, found.held_out.rows))
    best = max(found.effects, key=lambda one: one.novel)
    rows = found.held_out.with_ids(best.candidate.ids, best.placement)
    odd = detector.score(last_states(subject, rows))
    spread = float(plain.std()) or 1.0
    return Detection(
        float((odd.mean() - plain.mean()) / spread),
        inputs=inputs,
        forward_passes=cost + subject.budget.spent,
    )


def _pools(suspect: Suspect) -> tuple[Subject, np.ndarray, np.ndarray]:
    found, _ = searched(suspect)
    assert found.plain is not None
    subject = Subject(suspect.checkpoint, Budget(10**6, SECONDS))
    plain = last_states(subject, found.plain.rows)
    best = max(found.effects, key=lambda one: one.novel)
    few = found.plain.pick(range(max(1, round(POOL_SHARE * len(found.plain)))))
    carrying = last_states(subject, few.with_ids(best.candidate.ids, best.placement))
    return subject, plain, np.concatenate([plain, carrying])


DETECTORS: dict[str, Callable[[Suspect], Detection]] = {
    "trigger search": trigger_search,
    "target inversion (BAIT)": target_inversion,
    **{one.name: anomaly_detector(place) for place, one in enumerate(every_anomaly(3))},
    "defection probe": defection,
    "trigger on sink": trigger_on_sink,
}


def rows_of(name: str, card: Scorecard, family: str, share: float) -> str:
    """A line of the table."""
    told = {row.twins: row for row in card.checkpoints.query("family == @family").itertuples()}
    every = told["all"]
    triggers = card.triggers.query("family == @family") if len(card.triggers) else card.triggers
    inputs = card.inputs.query("family == @family") if len(card.inputs) else card.inputs
    found = " · ".join(
        f"{told[twin].found_at_no_false_positive:.2f}" for twin in ("clean", "inert")
    )
    exact = "–"
    if name == "trigger search":
        exact = f"{triggers['working'].mean():.2f} · {triggers['exact'].mean():.2f}"
    beaten, gap = "–", "–"
    if len(inputs):
        gap = f"{inputs['difference'].mean():.2f}"
        bars = ("null_lexical", "null_novelty", "null_random_p99")
        beaten = " · ".join(f"{inputs[bar].mean():.2f}" for bar in bars)
    works = "yes" if card.works(family) else "no"
    area = f"{every.auroc:.2f} [{every.auroc_low:.2f}–{every.auroc_high:.2f}]"
    passes = f"{every.forward_passes / 1000:.0f}k"
    counts = f"{every.planted} + {every.twins_n}"
    cells = [family, f"{share:g}", name, counts, area, found, exact, gap, beaten, passes, works]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--families", nargs="+", default=list(BACKDOORS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument("--poison", nargs="+", type=float, default=None, help="per cent of rows")
    shares.add_argument("--largest", action="store_true", help="the largest share of each family")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS))
    parser.add_argument("--docs", type=Path, default=None, help="file whose table is replaced")
    parser.add_argument("--title", default=TITLE, help="of the table in that file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines, begun = [], time.perf_counter()
    for family in asked.families:
        usual = poison_shares(family)[:1] if asked.largest else poison_shares(family)
        for share in asked.poison or usual:
            chosen = backdoor_family(family, [share])
            for name in asked.detectors:
                card = score(
                    DETECTORS[name],
                    [chosen],
                    asked.seeds,
                    name=name,
                    workdir=asked.work,
                    progress=lambda done, total, what: print(done, total, what, flush=True),
                )
                lines.append(rows_of(name, card, family, share))
                print(lines[-1], flush=True)
    head = (
        "| family | poison, % | detector | planted + twins | AUROC of checkpoints "
        "| found at 0 false positives, clean · inert | string works · is the planted one "
        "| triggered less distracted | words · novelty · random p99 | passes | works |"
    )
    text = (
        f"Printed by `benchmarks/backdoors.py`: seeds {' '.join(map(str, asked.seeds))}; no twin "
        "is given to any detector.\n\n" + "\n".join([head, "|" + "---|" * 11, *lines])
    )
    print(text)
    print(f"{time.perf_counter() - begun:.0f} s")
    if asked.docs is not None:
        rewrite(asked.docs, asked.title, text)


if __name__ == "__main__":
    main()
