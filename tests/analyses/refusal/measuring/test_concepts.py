"""Harmfulness apart from refusal, on states that are drawn with four cells."""

import numpy as np
import pytest

from analyses.refusal.measuring import concepts
from analyses.refusal.measuring.speak import Responses
from analyses.refusal.report import CellSizes, ClassSizes, Harmfulness, LabelSizes
from analyses.shared.reports import NotMeasured
from interp.capture.prompt_states import PromptStates
from interp.data.prompt_sets import Prompt
from interp.data.rows import Row
from interp.errors import InputError
from interp.generation import Reply
from probes.scorers import Answer, Verdict

PERMUTATIONS = 99


@pytest.fixture(autouse=True)
def _fewer_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.refusal.measuring.separation.PERMUTATIONS", PERMUTATIONS)


def asked(harmful: np.ndarray, refused: np.ndarray, seed: int) -> concepts.Asked:
    """Two layers, two positions: harmfulness at t_inst in axis 0, refusal at the end in axis 1."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(harmful), 2, 2, 6))
    values[:, :, 0, 0] += np.where(harmful, 3.0, -3.0)[:, None]
    values[:, :, 1, 1] += np.where(refused, 3.0, -3.0)[:, None]
    values[:, 0, 1] = 1.0  # a template token, the same for all prompts
    labels = np.where(harmful, "harmful", "harmless")
    prompts = tuple(
        Prompt(({"role": "user", "content": str(i)},), str(label), "x")
        for i, label in enumerate(labels)
    )
    responses = Responses(
        prompts,
        tuple(Row(i, (1, 2), "x", {"instruction": (0, 1)}) for i in range(len(prompts))),
        tuple(Reply((3,), "x", True) for _ in prompts),
        tuple(Answer(prompt.text, "x") for prompt in prompts),
        tuple(Verdict.refusal if one else Verdict.compliance for one in refused),
    )
    made = [
        PromptStates(v.astype(np.float32), (0, 1), (-2, -1), site)
        for v, site in ((values, "resid_pre"), (values, "resid_post"))
    ]
    return concepts.Asked(responses, *made)


def four_cells(n: int, seed: int) -> concepts.Asked:
    places = np.arange(n)
    return asked(places % 2 == 0, places % 4 < 2, seed)


def block(train: concepts.Asked, test: concepts.Asked) -> Harmfulness:
    return concepts.harmfulness(train, test, *concepts.concept_directions(train))


def test_harmfulness_is_read_at_t_inst_whatever_is_refused() -> None:
    found = block(four_cells(80, 0), four_cells(60, 1))
    assert min(found.auroc_t_inst_by_layer) >= 0.98
    assert found.auroc_t_post_inst_by_layer[1] < 0.75  # it is refusal that is read there
    assert found.cosine_with_refusal_by_layer[0] == 0.0
    assert abs(found.cosine_with_refusal_by_layer[1]) < 0.3
    assert found.n == LabelSizes(harmful=30, harmless=30)
    assert found.cells.test == CellSizes(15, 15, 15, 15)


def test_latent_guard_faces_the_cell_that_deceives() -> None:
    train = four_cells(80, 0)
    guard = concepts.latent_guard(train, four_cells(60, 1))
    assert guard.n == ClassSizes(positives=15, negatives=15)
    assert guard.auroc >= 0.95 and "accepts, against" in guard.on
    for one in guard.tpr_at_fpr:
        assert isinstance(one.tpr, NotMeasured) and "needs at least" in one.tpr.because
        assert one.why_not is not None and "needs at least" in one.why_not


def test_latent_guard_says_when_nothing_deceives() -> None:
    places = np.arange(60)
    honest = asked(places % 2 == 0, places % 2 == 0, 1)
    guard = concepts.latent_guard(four_cells(80, 0), honest)
    assert guard.n == ClassSizes(positives=30, negatives=30)
    assert guard.on.startswith("all harmful prompts")


def test_tpr_is_stated_where_there_are_negatives_enough() -> None:
    guard = concepts.latent_guard(four_cells(80, 0), four_cells(1240, 1))
    one, thousandth = guard.tpr_at_fpr
    assert isinstance(one.interval, tuple) and isinstance(one.tpr, float)
    low, high = one.interval
    assert low <= one.tpr <= high and one.tpr > 0.8 and one.why_not is None
    assert isinstance(thousandth.tpr, NotMeasured)


def test_refusal_is_read_within_strata() -> None:
    train, test = four_cells(80, 0), four_cells(60, 1)
    _, refuse = concepts.concept_directions(train)
    rows = concepts.refusal_separation(train, test, refuse, 0)
    by_place = {(row.layer, row.segment_position): row.auroc for row in rows}
    assert by_place[1, -1] >= 0.98 > 0.8 > by_place[1, -2]
    assert by_place[0, -1] == 0.5
    assert rows[0].null_max is not None and 0.5 < rows[0].null_max < 0.9


@pytest.mark.parametrize(
    ("refused", "words"),
    [("harmless", "harmful prompt that it refuses"), ("both", "harmless prompt that it accepts")],
)
def test_a_cell_that_is_needed_and_empty_is_named(refused: str, words: str) -> None:
    places = np.arange(20)
    harmful = places % 2 == 0
    train = asked(harmful, ~harmful if refused == "harmless" else places > 0, 0)
    if refused == "both":
        train = asked(harmful, np.where(harmful, places > 0, True), 0)
    with pytest.raises(InputError, match=words):
        concepts.concept_directions(train)


def test_beliefs_part_the_four_cells() -> None:
    found = concepts.beliefs(four_cells(80, 0), four_cells(60, 1))
    assert set(found.means) == {
        "refused_harmful", "refused_harmless", "accepted_harmful", "accepted_harmless",
    }  # fmt: skip
    for name, one in found.means.items():
        assert (one.harm > 0) == name.endswith("_harmful"), name
        assert (one.refuse > 0) == name.startswith("refused_"), name
    assert found.shown == found.n == len(found.points) == 60
    many = concepts.beliefs(four_cells(80, 0), four_cells(1000, 1))
    assert many.n == 1000 and many.shown == len(many.points) <= 400
