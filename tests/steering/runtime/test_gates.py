"""What gates read out, and that they come back from their description."""

import math

import pytest
import torch

from interp.errors import InputError
from interp.model.sites import Site
from steering.runtime.gates import (
    AlwaysOpen,
    ControllerGate,
    CosineGate,
    Gate,
    LogisticGate,
    depth,
    gate_from,
)

READS = [Site("resid_pre", 1), Site("resid_post", 2)]
WIDTH = 6


def _states(rows: int = 7) -> torch.Tensor:
    return torch.randn(rows, len(READS), WIDTH, generator=torch.Generator().manual_seed(0))


def _gates() -> dict[str, Gate]:
    torch.manual_seed(1)
    vectors = torch.randn(len(READS), WIDTH)
    components = torch.linalg.qr(torch.randn(12, 3))[0].T.contiguous()
    return {
        "open": AlwaysOpen(),
        "logistic": LogisticGate(READS, vectors, 0.3, 0.1, position=-4),
        "soft": LogisticGate(READS, vectors, hard=False),
        "cosine": CosineGate(READS, vectors, [0.1, 0.2], above=False),
        "plain": CosineGate(READS, vectors, 0.0, plain=True),
        "controller": ControllerGate(READS, WIDTH, 3, hidden=5),
        "compressed": ControllerGate(
            READS, WIDTH, 3, 5, -2, "clip01", 0.0, torch.randn(12), components
        ),
    }


def test_the_logistic_gate_is_zero_up_to_its_threshold() -> None:
    states, vectors = _states(), torch.randn(2, WIDTH)
    score = torch.tensor([(h * vectors).sum() + 0.3 for h in states])
    hard = LogisticGate(READS, vectors, 0.3, 0.5)(states)
    soft = LogisticGate(READS, vectors, 0.3, 0.5, hard=False)(states)
    assert torch.allclose(hard.score, score, atol=1e-5)
    assert hard.strength.tolist() == (score > 0.5).float().tolist()
    expected = [1 / (1 + math.exp(-s)) if s > 0.5 else 0.0 for s in score.tolist()]
    assert torch.allclose(soft.strength, torch.tensor(expected), atol=1e-6)
    assert 0 < int(hard.strength.sum()) < len(states)
    at = LogisticGate(READS, vectors, 0.3, float(hard.score[0]))(states)
    assert at.strength[0] == 0  # not above


def test_the_condition_is_the_published_similarity() -> None:
    """cos(h, tanh(c cᵀ h / cᵀ c)), by the matrix, row by row and layer by layer."""
    states, conditions = _states(), torch.randn(2, WIDTH)
    gate = CosineGate(READS, conditions, [0.2, 0.4])
    for row, pair in enumerate(states):
        margins = []
        for h, c, theta in zip(pair, conditions, (0.2, 0.4), strict=True):
            projected = torch.tanh(torch.outer(c, c) @ h / (c @ c))
            margins.append(float(torch.cosine_similarity(h, projected, dim=0)) - theta)
        opening = gate(states[row : row + 1])
        assert opening.score.item() == pytest.approx(max(margins), abs=1e-5)
        assert opening.strength.item() == float(max(margins) > 0)
    below = CosineGate(READS, conditions, [0.2, 0.4], above=False)(states)
    nearest = (gate.similarity(states) - torch.tensor([0.2, 0.4])).amin(-1)
    assert torch.equal(below.strength, (nearest < 0).float())


def test_a_row_is_decided_by_itself() -> None:
    states = _states()
    for name, gate in _gates().items():
        together = gate(states)
        for row in range(len(states)):
            alone = gate(states[row : row + 1])
            assert torch.allclose(alone.score, together.score[row : row + 1], atol=1e-6), name
            assert torch.allclose(alone.strength, together.strength[row : row + 1], atol=1e-6)


def test_the_controller_weighs_sites_and_cuts_off() -> None:
    states = _states()
    raw = ControllerGate(READS, WIDTH, 3, hidden=5)
    with torch.no_grad():
        opening = raw(states)
    assert opening.weights is not None
    assert opening.weights.shape == (len(states), 3)
    assert torch.equal(opening.strength, opening.score)  # raw, as published
    middle = float(opening.score.median())
    cut = ControllerGate(READS, WIDTH, 3, 5, squash="sigmoid", threshold=middle)
    cut.hidden, cut.head = raw.hidden, raw.head
    strength = cut(states).strength.detach()
    assert torch.equal(strength > 0, opening.score > middle)
    assert torch.allclose(strength[strength > 0], opening.score[opening.score > middle].sigmoid())


def test_a_compressed_controller_is_the_whole_one_on_projected_states() -> None:
    gate = _gates()["compressed"]
    assert isinstance(gate, ControllerGate)
    states = _states()
    x = (states.flatten(1) - gate.centre) @ gate.components.T
    out = gate.head(torch.relu(gate.hidden(x)))
    assert torch.allclose(gate(states).score, out[:, 0], atol=1e-6)
    assert gate.hidden.in_features == 3


def test_a_gate_comes_back_from_its_description() -> None:
    states = _states()
    for name, gate in _gates().items():
        again = gate_from(gate.describe(), gate.state_dict())
        assert type(again) is type(gate) and again.describe() == gate.describe()
        assert again.reads == gate.reads and again.position == gate.position
        assert torch.equal(again(states).score, gate(states).score), name
        assert torch.equal(again(states).strength, gate(states).strength), name


def test_sites_are_ordered_as_a_pass_reaches_them() -> None:
    sites = [Site(name, layer) for layer in range(3) for name in ("resid_pre", "resid_post")]
    assert [depth(site) for site in sites] == list(range(6))
    with pytest.raises(InputError, match="no site of a layer"):
        depth(Site("embed"))


def test_what_does_not_fit_is_refused() -> None:
    vectors = torch.randn(2, WIDTH)
    for message, make in {
        "position 0": lambda: LogisticGate(READS, vectors, position=0),
        "order of the layers": lambda: LogisticGate(READS[::-1], vectors),
        "reads resid_pre": lambda: LogisticGate([Site("attn_out", 1)], vectors[:1]),
        r"need \[2, width\]": lambda: LogisticGate(READS, vectors[:1]),
        "NaN": lambda: LogisticGate(READS, vectors * torch.nan),
        "thresholds": lambda: CosineGate(READS, vectors, [0.1, 0.2, 0.3]),
        "squash": lambda: ControllerGate(READS, WIDTH, 1, squash="tanh"),
        "both centre": lambda: ControllerGate(READS, WIDTH, 1, centre=torch.zeros(12)),
        "are 12": lambda: ControllerGate(
            READS, WIDTH, 1, centre=torch.zeros(5), components=torch.zeros(2, 5)
        ),
        "no gate 'door'": lambda: gate_from({"kind": "door"}, {}),
        "incomplete": lambda: gate_from({"kind": "logistic", "reads": [], "position": -1}, {}),
    }.items():
        with pytest.raises(InputError, match=message):
            make()
