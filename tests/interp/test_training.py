"""The training loop: deterministic, resumable, and without side effects."""

from pathlib import Path

import pytest
import torch
from torch import nn

from interp.organisms.bigram_backcopy.recipes import Recipe, bigram_backcopy_recipes
from interp.training import Schedule, next_token_loss, one_thread, train_model

STEPS = 12


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return bigram_backcopy_recipes(STEPS)["bb-plain"]


def trained(recipe: Recipe, seed: int = 0, **more: object) -> dict[str, torch.Tensor]:
    model = recipe.architecture.build(seed)
    train_model(model, recipe.batches(seed), recipe.schedule, pin=recipe.pin, **more)
    return model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_training_is_deterministic_and_the_seed_matters(recipe: Recipe) -> None:
    first = trained(recipe)
    assert same(first, trained(recipe))
    assert not same(first, trained(recipe, seed=1))


def test_training_leaves_threads_and_generator_alone(recipe: Recipe) -> None:
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    try:
        trained(recipe)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(
    recipe: Recipe, tmp_path: Path
) -> None:
    def stop(done: int, loss: float) -> None:
        if done == 8:
            raise KeyboardInterrupt

    whole = trained(recipe)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, work=tmp_path, save_every=3, progress=stop)
    steps: list[int] = []
    resumed = trained(
        recipe, work=tmp_path, save_every=3, progress=lambda done, _: steps.append(done)
    )
    assert steps == list(range(7, STEPS + 1))
    assert same(whole, resumed)
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_another_schedule_begins_anew(
    recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(done: int, loss: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(recipe, work=tmp_path, save_every=2, progress=stop)
    longer = bigram_backcopy_recipes(STEPS + 1)["bb-plain"]
    again = trained(longer, work=tmp_path)
    assert "schedule.steps" in caplog.text and "begins anew" in caplog.text
    assert same(again, trained(longer))


def test_the_hook_sees_step_zero_and_an_evaluating_model(recipe: Recipe) -> None:
    seen: list[tuple[int, bool]] = []
    observed = trained(recipe, on_step=lambda done, model: seen.append((done, model.training)))
    assert seen == [(done, False) for done in range(STEPS + 1)]
    assert same(observed, trained(recipe))


def test_only_marked_tokens_count() -> None:
    logits = torch.randn(2, 5, 7)
    ids = torch.randint(7, (2, 5))
    mask = torch.zeros(2, 5)
    mask[0, 3] = 1
    expected = -logits[0, 2].log_softmax(-1)[ids[0, 3]]
    assert next_token_loss(logits, ids, mask) == pytest.approx(expected.item())


def test_schedule_warms_up_and_ends_at_the_floor() -> None:
    schedule = Schedule(steps=1000, learning_rate=2.0, warmup=10)
    assert schedule.rate(0) == pytest.approx(0.2)
    assert schedule.rate(10) == pytest.approx(2.0, rel=1e-3)
    assert schedule.rate(999) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_only_matrices_decay(optimiser: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    schedule = Schedule(5, 0.1, optimiser=optimiser, weight_decay=0.3)  # type: ignore[arg-type]
    decays = {
        parameter.ndim: group["weight_decay"]
        for group in schedule.build(model).param_groups
        for parameter in group["params"]
    }
    assert decays == {1: 0.0, 2: 0.3}


def test_one_thread_is_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stop"), one_thread():
        raise RuntimeError("stop")
    assert torch.get_num_threads() == before
