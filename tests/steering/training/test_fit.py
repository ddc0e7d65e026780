"""Policies trained on organisms: what they choose, and what they refuse to do."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from analyses.steering.material import organism_training
from interp.errors import CheckError, InputError, NumericalError
from interp.model.sites import Site
from interp.resolve import load
from steering.policy.export import export_policy, typical_norms
from steering.policy.policy import Policy
from steering.runtime.gates import ControllerGate
from steering.training import controller, layer_weights
from steering.training.candidates import BUDGET, layers_tried
from steering.training.controller import Fit, calibrated, linear_gate, scores, trained_controller
from steering.training.examples import Captured, Cases, TrainingSet, captured
from steering.training.fit import train
from steering.training.layer_weights import SiteWeights, TrainingData, WeightSchedule, train_weights
from steering.training.options import Options
from steering.training.registry import require_method
from steering.training.tuning import tune
from steering.training.vectors import refusal_vector

QUICK = Options(prompts=8, max_new_tokens=8, end_to_end_steps=20, fpr=0.05)


@pytest.fixture(scope="module")
def read() -> Captured:
    checkpoint = load("organism:chat")
    return captured(checkpoint, organism_training(checkpoint, 40))


def _train(read: Captured, method: Any, options: Options = QUICK) -> Policy:
    return train(read.checkpoint, read.given, method, options, read=read)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["was-plus", "was", "cast", "alphasteer", "actadd"])
def test_every_method_tries_as_many_settings_and_can_be_kept(
    method: str, read: Captured, tmp_path: Path
) -> None:
    policy = _train(read, method)
    record = policy.meta["training"]
    assert policy.method == method and len(record["trials"]) == BUDGET
    best = max(trial["score"] for trial in record["trials"])
    assert [t["score"] for t in record["trials"] if t["chosen"]] == [best]
    kept = Policy.load(policy.save(tmp_path), read.checkpoint)
    assert kept.meta["training"]["trials"] == record["trials"]
    assert ("residual_norms" in kept.meta) == (policy.operator == "relative")
    if method == "was-plus":
        assert kept.meta["residual_norms"] == pytest.approx(
            typical_norms(read.checkpoint, policy, read.train.rows), rel=1e-4
        )
        lost = export_policy(kept, "gguf", tmp_path / "vector.gguf")
        assert any("fixed at a typical norm" in line for line in lost)
    assert torch.equal(kept.directions, policy.directions)
    for one, other in zip(
        kept.gate.state_dict().values(), policy.gate.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_was_plus_is_the_same_on_every_run_and_leaves_the_model_alone(
    read: Captured, tmp_path: Path
) -> None:
    before = {name: p.clone() for name, p in read.checkpoint.model.named_parameters()}
    first, second = _train(read, "was-plus"), _train(read, "was-plus")
    assert first.weights == second.weights and first.meta == second.meta
    assert first.strength == second.strength and first.span == second.span
    files = [policy.save(tmp_path / name) for name, policy in (("a", first), ("b", second))]
    assert files[0].read_bytes() == files[1].read_bytes()
    for name, parameter in read.checkpoint.model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.requires_grad
        assert parameter.grad is None
    assert not first.late  # it steers behind its gate, without a further pass


@pytest.mark.slow
def test_an_mlp_controller_reads_compressed_states_and_weighs_layers(read: Captured) -> None:
    policy = _train(read, "was-plus", dataclasses.replace(QUICK, controller="mlp"))
    gate = policy.gate
    assert isinstance(gate, ControllerGate) and gate.cut and len(gate.components) == 64
    closed = gate(torch.zeros(1, len(gate.reads), policy.width) - 1e3 * torch.ones(1))
    assert closed.score.shape == (1,) and closed.weights is not None
    chosen = next(t for t in policy.meta["training"]["trials"] if t["chosen"])
    assert chosen["refused"] >= 0.8 and chosen["over"] <= 0.2


def test_the_published_controller_separates_and_leaves_its_layer_weights_near_a_half(
    read: Captured,
) -> None:
    gate = trained_controller(read, 3, -1, Fit(), 0)
    with torch.no_grad():
        opening = gate(controller.states_of(gate, read.validation))
    score, harmful = opening.score.numpy(), read.validation.harmful
    assert score[harmful].mean() > score[~harmful].mean() + 0.3
    assert opening.weights is not None
    assert float((opening.weights - 0.5).abs().mean()) < 0.2


def _descent(read: Captured) -> tuple[SiteWeights, TrainingData, TrainingData]:
    """A useful and a useless direction, and the parts of both parts."""
    useless = torch.zeros(read.checkpoint.anatomy.width)
    useless[0] = 1e-3  # a direction of nothing in particular
    logits = nn.Parameter(torch.full((2,), -1.0))
    steered = SiteWeights(
        read.checkpoint,
        [Site("resid_post", 1), Site("resid_post", 2)],
        torch.stack([refusal_vector(read, 1), useless]),
        read.refusal_ids,
        [logits],
    )
    parts = []
    for part in (read.train, read.validation):
        used = np.flatnonzero(part.kinds != "harmful")
        refuse = part.kinds[used] == "jailbroken"
        parts.append(
            TrainingData(
                [part.rows[i] for i in used],
                torch.tensor(refuse).float(),
                refuse,
                lambda rows: logits.sigmoid().expand(len(rows), -1),
            )
        )
    return steered, parts[0], parts[1]


@pytest.mark.slow
def test_end_to_end_weights_raise_refusal_and_spare_what_does_not_help(read: Captured) -> None:
    steered, data, held = _descent(read)
    done = train_weights(steered, data, held, WeightSchedule(steps=40))
    assert np.mean(done.losses[-5:]) < np.mean(done.losses[:5]) - 0.5
    useful, useless = steered.parameters[0].detach().tolist()
    assert useful > useless


def test_the_descent_stops_where_held_out_prompts_gain_no_more_and_keeps_the_best(
    read: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    steered, data, held = _descent(read)
    at: list[torch.Tensor] = []

    def losses(steered: SiteWeights, own: TrainingData, each: Any) -> torch.Tensor:
        weight = steered.parameters[0]
        if own is data:
            return weight.sum()  # training drives the weights down for ever
        at.append(weight.detach().clone())
        return (weight.detach() + 1.2).abs().sum()  # held-out prompts want them at -1.2

    monkeypatch.setattr(layer_weights, "_loss", losses)
    schedule = WeightSchedule(steps=200, every=2, patience=3, held=1)
    done = train_weights(steered, data, held, schedule)
    assert done.best == 4 and len(done.losses) == 4 + 2 * 3 and len(done.looks) == 6
    assert torch.equal(steered.parameters[0].detach(), at[2])


def test_a_stopped_descent_goes_on_where_it_was(read: Captured, tmp_path: Path) -> None:
    schedule, keep = WeightSchedule(steps=8, every=2, batch=8, held=1), tmp_path / "state"
    whole, data, held = _descent(read)
    done = train_weights(whole, data, held, schedule)

    class Stop(Exception):
        pass

    def stop(step: int, steps: int) -> None:
        if step == 5:
            raise Stop

    broken, data, held = _descent(read)
    with pytest.raises(Stop):
        train_weights(broken, data, held, schedule, keep=keep, progress=stop)
    again, data, held = _descent(read)
    steps: list[int] = []
    rest = train_weights(
        again, data, held, schedule, keep=keep, progress=lambda step, _: steps.append(step)
    )
    assert steps == [5, 6, 7, 8] and rest == done
    assert torch.equal(again.parameters[0], whole.parameters[0])
    # A run that is stopped after the descent does not descend again.
    later, data, held = _descent(read)
    steps.clear()
    assert done == train_weights(
        later, data, held, schedule, keep=keep, progress=lambda step, _: steps.append(step)
    )
    assert not steps and torch.equal(later.parameters[0], whole.parameters[0])


@pytest.mark.slow
def test_nan_and_no_memory_are_one_sentence(
    read: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NumericalError, match="controller's loss became NaN or infinite in epoch"):
        trained_controller(read, 3, -1, Fit(rate=float("inf")), 0)

    def nan(*args: Any) -> torch.Tensor:
        return nn.Parameter(torch.tensor(float("nan"))) * 1.0

    monkeypatch.setattr(layer_weights, "_loss", nan)
    with pytest.raises(NumericalError, match="end-to-end phase became NaN or infinite in step 1"):
        _train(read, "was-plus")

    def full(*args: Any) -> torch.Tensor:
        return torch.empty(10**15)

    monkeypatch.setattr(layer_weights, "_loss", full)
    with pytest.raises(InputError, match="--end-to-end-batch 4 or less"):
        _train(read, "was-plus")

    def wrong(*args: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(layer_weights, "_loss", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        _train(read, "was-plus")
    assert all(p.requires_grad for p in read.checkpoint.model.parameters())


def test_bad_settings_are_refused(read: Captured) -> None:
    with pytest.raises(InputError, match="there is no method 'was2'; there are was-plus"):
        require_method("was2")
    with pytest.raises(InputError, match="is not one of linear, mlp"):
        Options(controller="cnn")
    with pytest.raises(InputError, match="must be 2 or more"):
        Options(prompts=1)
    few = dataclasses.replace(read.given.train, harmful=Cases())
    with pytest.raises(InputError, match="the training part has 0 harmful prompts"):
        TrainingSet(few, read.given.validation, read.given.calibration)
    with pytest.raises(InputError, match="needs at least 3000 negatives"):
        _train(read, "was-plus", dataclasses.replace(QUICK, fpr=0.001))


def test_layers_are_spread_over_the_depth() -> None:
    assert layers_tried((0, 1, 2)) == [0, 1, 2]
    assert layers_tried(tuple(range(32))) == [8, 14, 20, 26]


@pytest.mark.slow
def test_if_nothing_helps_the_weakest_setting_is_taken(read: Captured) -> None:
    policy = _train(read, "actadd")
    still = dataclasses.replace(policy, strength=0.0)
    candidates = [({"strength": s}, still) for s in (2.0, 0.5, 1.0)]
    _, trials = tune(read, candidates, QUICK)
    assert [t["strength"] for t in trials if t["chosen"]] == [0.5]


@pytest.mark.slow
def test_where_harm_is_erased_calibration_says_so() -> None:
    checkpoint = load("organism:jailbreak-erase")
    with pytest.raises(CheckError, match=r"opens for [0-9.]+% of the jailbroken prompts"):
        train(checkpoint, organism_training(checkpoint), "was-plus")


def _silenced(read: Captured, position: int) -> Captured:
    """The same, but that nothing is to be read at one position."""
    parts = {}
    for name in ("train", "validation", "calibration"):
        part = getattr(read, name)
        values = part.states.values.copy()
        values[:, :, part.states.positions.index(position)] = 0.0
        states = dataclasses.replace(part.states, values=values)
        parts[name] = dataclasses.replace(part, states=states)
    return dataclasses.replace(read, **parts)


def test_the_gate_reads_the_token_that_tells_harm(read: Captured) -> None:
    for position, other in ((read.t_inst, -1), (-1, read.t_inst)):
        gate = linear_gate(_silenced(read, position), 0.05)
        assert gate.position == other
        assert calibrated(gate, read, 0.05).opens >= 0.9
    assert [site.layer for site in linear_gate(read, 0.05).reads] == [0, 1]  # steers behind them


def test_of_two_tokens_that_tell_harm_alike_the_last_is_read(
    read: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wider, position in ((0.0, read.t_inst), (100.0, -1)):
        monkeypatch.setattr(controller, "_WIDER", wider)
        assert linear_gate(read, 0.05).position == position


def test_the_gate_is_lda_of_layers_side_by_side(read: Captured) -> None:
    gate = linear_gate(read, 0.05)
    layers = [int(site.layer or 0) for site in gate.reads]
    x = np.concatenate([read.train.at(layer, gate.position) for layer in layers], 1)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, read.train.harmful)
    assert scores(gate, read.train) == pytest.approx(lda.decision_function(x), rel=1e-3, abs=1e-2)


def test_what_is_no_checkpoint_or_training_set_is_refused(
    read: Captured, as_users_call: None
) -> None:
    wrong: Any = "organism:chat"
    with pytest.raises(InputError, match=r"^checkpoint is the string .*mechguard\.load"):
        train(wrong, read.given)
    wrong = "harm.csv"
    with pytest.raises(InputError, match=r"^given is the string 'harm.csv', .*TrainingSet"):
        train(read.checkpoint, wrong)
    wrong = {"seed": 1}
    with pytest.raises(InputError, match=r"^options is of type dict, .*Options"):
        train(read.checkpoint, read.given, "actadd", wrong)
