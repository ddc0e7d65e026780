"""Selection: each filter and each tie on planted tables, and the whole on an organism."""

import numpy as np
import pytest
import torch

from interp import CheckError, Checkpoint, InputError, load
from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.generation import next_logits
from interp.organisms import prompts
from probes.directions.directions import difference_in_means
from probes.directions.selection import CandidateScores, divergence, score_candidates, select

LAYERS, POSITIONS = 10, (-2, -1)


def a_table(**changed: dict[tuple[int, int], float]) -> CandidateScores:
    """Candidates that all pass, bypass rising with the layer; some scores set by (layer, position).

    Every prompt has the same score, so that nothing but the means speaks.
    """
    bypass = np.repeat(np.arange(LAYERS, dtype=float)[:, None] - 20, 2, 1)
    bypass[:, 1] += 0.5
    scores = {"bypass": bypass, "induce": np.ones((LAYERS, 2)), "kl": np.full((LAYERS, 2), 0.01)}
    for name, cells in changed.items():
        for (layer, position), value in cells.items():
            scores[name][layer, POSITIONS.index(position)] = value
    wide = {name: np.repeat(values[..., None], 4, -1) for name, values in scores.items()}
    return CandidateScores(tuple(range(LAYERS)), POSITIONS, **wide)


def reason(scores: CandidateScores, layer: int, position: int) -> str:
    table = select(scores, LAYERS).table
    here = table[(table["layer"] == layer) & (table["position"] == position)]
    return str(here["discarded"].iloc[0])


def test_the_lowest_bypass_wins() -> None:
    assert select(a_table(), LAYERS).chosen == (0, -2)
    assert select(a_table(bypass={(5, -1): -30.0}), LAYERS).chosen == (5, -1)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"kl": {(0, -2): 0.1001}}, "kl"),
        ({"induce": {(0, -2): -0.001}}, "induce"),
        ({"bypass": {(0, -2): np.nan}}, "no number"),
        ({"induce": {(0, -2): np.nan}}, "no number"),
        ({"kl": {(0, -2): np.nan}}, "no number"),
    ],
)
def test_each_filter_discards(changed: dict[str, dict[tuple[int, int], float]], why: str) -> None:
    scores = a_table(**changed)
    assert reason(scores, 0, -2) == why
    assert select(scores, LAYERS).chosen == (0, -1)
    assert select(scores, LAYERS).survivors == 15


def test_equality_is_kept_and_late_layers_are_cut_at_eight_tenths() -> None:
    scores = a_table(kl={(0, -2): 0.1}, induce={(0, -1): 0.0}, bypass={(8, -1): -99, (7, -1): -98})
    found = select(scores, LAYERS)
    assert reason(scores, 0, -2) == "" and reason(scores, 0, -1) == ""
    assert reason(scores, 8, -1) == "layer" and reason(scores, 7, -1) == ""
    assert found.chosen == (7, -1)
    assert select(scores, 9).chosen != (7, -1)  # int(0.8 · 9) = 7


def test_of_equal_candidates_the_first_is_chosen_and_the_tie_is_told() -> None:
    scores = a_table(bypass={(3, -1): -50.0, (4, -2): -50.0})
    found = select(scores, LAYERS)
    assert found.chosen == (3, -1)
    ties = found.table[found.table["near_tie"]]
    assert list(zip(ties["layer"], ties["position"], strict=True)) == [(4, -2)]


def test_no_survivor_is_said_with_the_filters() -> None:
    every = {(layer, position): 1.0 for layer in range(LAYERS) for position in POSITIONS}
    found = select(a_table(kl=every), LAYERS)
    assert found.chosen is None and found.survivors == 0
    with pytest.raises(CheckError, match=r"none of the 20 .* \(16 by kl, 4 by layer\)"):
        found.require()


def test_the_bootstrap_shares_noisy_candidates_out() -> None:
    rng = np.random.default_rng(0)
    scores = a_table()
    noise = rng.normal(size=(LAYERS, 2, 32)) * 4
    bypass = np.full((LAYERS, 2, 32), 5.0) + noise
    bypass[2], bypass[3] = -10 + noise[2], -10 + noise[3]
    wide = np.repeat(scores.induce[..., :1], 32, -1)
    noisy = CandidateScores(scores.layers, POSITIONS, bypass, wide, 0.01 * wide)
    table = select(noisy, LAYERS, seed=3).table
    contenders = table[table["layer"].isin([2, 3])]
    assert contenders["chosen_share"].sum() == 1.0
    assert (contenders["chosen_share"] > 0).sum() >= 2
    assert table[table["near_tie"]]["layer"].isin([2, 3]).all()
    again = select(noisy, LAYERS, seed=3).table
    assert again.equals(table)


def test_the_divergence_of_a_distribution_from_itself_is_nothing() -> None:
    logits = torch.randn(5, 11)
    assert np.abs(divergence(logits, logits + 3.0)).max() < 1e-12
    p, q = logits.double().softmax(-1), torch.zeros(5, 11).double().softmax(-1)
    exact = (p * (p / q).log()).sum(-1).numpy()
    np.testing.assert_allclose(divergence(logits, torch.zeros(5, 11)), exact, atol=1e-4)


@pytest.fixture(scope="module")
def chat() -> Checkpoint:
    return load("organism:chat")


def test_on_the_organism_the_last_token_is_selected(chat: Checkpoint, tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    train, held = prompts("chat", "train"), prompts("chat", "validation")
    sides = [train["harmful"][:48], train["harmless"][:48]]
    rows = [prompt_rows(chat, side) for side in sides]
    found = difference_in_means(*(prompt_states(chat, some) for some in rows))
    harmful, harmless = (prompt_rows(chat, held[name][:12]) for name in ("harmful", "harmless"))
    refusal = [int(next_logits(chat, harmful[:1]).argmax())]
    seen: list[int] = []

    def run(progress: object = None) -> CandidateScores:
        return score_candidates(
            chat, found, harmful, harmless, refusal, workdir=tmp_path, progress=progress
        )  # type: ignore[arg-type]

    scores = run(lambda done, total: seen.append(done))
    assert seen[-1] == 12 == len(list(tmp_path.glob("*/candidate-*")))
    np.testing.assert_array_equal(run().bypass, scores.bypass)  # from the work folder
    selection = select(scores, 3)
    assert selection.require()[1] == -1
    # Layer 0 behind the instruction is the embedding of a template token: no difference at all.
    table = selection.table.set_index(["layer", "position"])
    assert table.loc[(0, -1), "discarded"] == "no number"
    base = next_logits(chat, harmless)
    best = table.loc[selection.require()]
    assert best["bypass"] < 0 < best["induce"]
    assert base.shape[0] == 12


def test_an_empty_side_is_refused(chat: Checkpoint) -> None:
    states = prompt_states(chat, prompt_rows(chat, prompts("chat")["harmful"][:4]))
    found = difference_in_means(states[:2], states[2:])
    with pytest.raises(InputError, match="there are 0 and 0"):
        score_candidates(chat, found, [], [], [3])


def test_the_draws_of_the_bootstrap_stay_the_same() -> None:
    """Worked by the code before all bootstraps had one core."""
    wave = np.sin(np.arange(6 * 2 * 9.0)).reshape(6, 2, 9)
    scores = CandidateScores(
        tuple(range(6)), POSITIONS, wave, wave[..., ::-1] + 0.2, np.abs(wave) / 8
    )
    table = select(scores, 6, seed=3).table
    shares = [0.0375, 0.2095, 0.173, 0.1225, 0.1915, 0.0375, 0.2015, 0.027, 0.0, 0.0, 0.0, 0.0]
    assert table["chosen_share"].tolist() == shares
    assert np.flatnonzero(table["near_tie"]).tolist() == [0, 1, 2, 3, 5, 7]
