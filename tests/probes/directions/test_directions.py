"""Directions: the published ones, planted ones, and the four cells."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, tiny

from interp import Checkpoint, InputError, load
from interp.capture.prompt_states import PromptStates, prompt_rows, prompt_states
from interp.data.rows import Row
from interp.doctor.model_under_test import reading
from interp.errors import NumericalError
from interp.interventions.edits_by_site import ablate_direction, set_projection, stream_sites
from interp.model.origin import origin
from interp.model.sites import Site
from interp.organisms import prompts, truth
from probes.directions.directions import (
    Cells,
    Direction,
    Directions,
    cosine,
    difference_in_means,
    harmfulness_directions,
    read_published,
    refusal_directions,
)


def made_up(rng: np.random.Generator, n: int, shift: np.ndarray | None = None) -> PromptStates:
    values = rng.normal(size=(n, 3, 2, 16))
    values = values if shift is None else values + shift
    return PromptStates(values.astype(np.float32), (0, 1, 2), (-2, -1), "resid_pre")


@pytest.mark.parametrize("name", ["gemma-2b-it", "qwen-1_8b-chat"])
def test_published_directions_stand_where_our_indices_say(
    reference: Callable[[str], Path], name: str
) -> None:
    folder = reference(f"directions/{name}")
    candidates, chosen = read_published(folder)
    raw = torch.load(folder / "mean_diffs.pt", weights_only=True, map_location="cpu")
    vector = torch.load(folder / "direction.pt", weights_only=True, map_location="cpu")
    assert (chosen.layer, chosen.position) == {
        "gemma-2b-it": (10, -2),
        "qwen-1_8b-chat": (15, -2),
    }[name]
    assert torch.equal(raw[chosen.position, chosen.layer].float(), vector.float())
    assert torch.equal(chosen.vector, vector.float())
    assert (
        len(candidates.layers) * len(candidates.positions)
        == {
            "gemma-2b-it": 90,
            "qwen-1_8b-chat": 120,
        }[name]
    )
    assert chosen.segment == "post_instruction"


def test_published_files_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="three files of a published direction"):
        read_published(tmp_path)
    torch.save({"code": print}, tmp_path / "mean_diffs.pt")  # needs the unpickler, so it is refused
    torch.save(torch.ones(4), tmp_path / "direction.pt")
    (tmp_path / "direction_metadata.json").write_text('{"pos": -1, "layer": 0}')
    with pytest.raises(InputError, match="three files of a published direction"):
        read_published(tmp_path)
    torch.save(torch.zeros(1, 2, 4), tmp_path / "mean_diffs.pt")
    with pytest.raises(InputError, match="is not the candidate at layer 0, position -1"):
        read_published(tmp_path)


def test_the_difference_is_that_of_the_means_in_float64() -> None:
    rng = np.random.default_rng(0)
    one, other = made_up(rng, 40, np.float64(1e4)), made_up(rng, 30, np.float64(1e4))
    found = difference_in_means(one, other, data="x")
    wanted = one.values.astype(np.float64).mean(0) - other.values.astype(np.float64).mean(0)
    assert np.abs(found.vectors - wanted).max() < 1e-9
    assert found.meta == {"positive": 40, "negative": 30, "data": "x"}
    assert found.at(1, -2).segment == "instruction"
    assert found.at(1, -1).segment == "post_instruction"
    frame = found.frame()
    assert len(frame) == 6
    np.testing.assert_allclose(frame["norm"], found.norms.reshape(-1))
    assert (frame["relative_norm"] < 1).all()
    with pytest.raises(InputError, match="no direction at layer 7"):
        found.at(7, -1)


def test_empty_classes_and_numbers_that_are_none_are_refused() -> None:
    rng = np.random.default_rng(0)
    one = made_up(rng, 4)
    with pytest.raises(InputError, match="holds no prompt"):
        difference_in_means(one, one[:0])
    with pytest.raises(InputError, match="different sites, layers or positions"):
        difference_in_means(one, PromptStates(one.values, (0, 1, 3), (-2, -1), "resid_pre"))
    broken = made_up(rng, 4)
    broken.values[2, 1] = np.nan
    with pytest.raises(NumericalError, match="NaN"):
        difference_in_means(one, broken)


def test_cells_take_harmfulness_out_of_refusal_and_the_other_way_round() -> None:
    rng = np.random.default_rng(1)
    harm, refuse = np.zeros(16), np.zeros(16)
    harm[0], refuse[1] = 3.0, 3.0
    harmful = np.arange(400) % 10 < 5
    refused = harmful ^ np.isin(np.arange(400) % 20, (2, 7, 12))  # confounded: 85 of 100 agree
    shift = harmful[:, None] * harm + refused[:, None] * refuse
    states = made_up(rng, 400, shift[:, None, None])
    cells = Cells(harmful, refused)
    assert sum(cells.counts().values()) == 400 and min(cells.counts().values()) > 10
    clean = refusal_directions(states, cells).vectors[1, 1]
    confounded = difference_in_means(states[refused], states[~refused]).vectors[1, 1]
    assert abs(cosine(clean, harm)) < 0.1 < 0.4 < cosine(confounded, harm)
    assert cosine(clean, refuse) > 0.97
    both = harmfulness_directions(states, cells[True, True], cells[False, False]).vectors[1, 0]
    assert cosine(both, harm) > 0.6
    with pytest.raises(InputError, match="accepted no prompt"):
        refusal_directions(states, Cells(harmful, np.ones(400, bool)))
    one_sided = Cells(harmful, harmful)
    np.testing.assert_allclose(
        refusal_directions(states, one_sided).vectors,
        difference_in_means(states[harmful], states[~harmful]).vectors,
    )


def test_a_direction_planted_in_a_random_transformer_is_recovered() -> None:
    """Words of one kind carry a vector of their own in the embedding; the rest is noise."""
    checkpoint = load(tiny("llama"))
    torch.manual_seed(0)
    planted = torch.randn(32)
    with torch.no_grad():
        checkpoint.embedding.get_parameter("weight")[:48] += 4 * planted
    rng = np.random.default_rng(0)

    def rows(low: int, high: int) -> list[Row]:
        spans = {"instruction": (0, 5), "post_instruction": (5, 6)}
        ids = [(*(int(i) for i in rng.integers(low, high, 5)), 96) for _ in range(300)]
        return [Row(number, one, "", spans) for number, one in enumerate(ids)]

    found = difference_in_means(
        prompt_states(checkpoint, rows(3, 48)), prompt_states(checkpoint, rows(48, 96))
    )
    assert cosine(found.at(0, -2).vector.numpy(), planted.numpy()) >= 0.99


def test_the_planted_direction_of_the_organism_is_found_by_the_cells() -> None:
    """`chat` has a vector in its residual that decides refusal; the truth file tells it."""
    checkpoint = load("organism:chat")
    sets = prompts("chat", "train")
    chosen = [p for name in sets if name[:8] in ("refused_", "accepted") for p in sets[name]]
    states = prompt_states(checkpoint, prompt_rows(checkpoint, chosen))
    cells = Cells(
        np.array([p.harmful for p in chosen]),
        np.array([p.label.startswith("refused") for p in chosen]),
    )
    found = refusal_directions(states, cells)
    planted = np.array(truth("chat")["planted_direction"])
    best = max(cosine(found.at(layer, -1).vector.numpy(), planted) for layer in found.layers)
    assert best > 0.85


@pytest.mark.parametrize("family", FAMILIES)
def test_ablation_leaves_nothing_at_any_site_and_is_idempotent(family: str) -> None:
    checkpoint = load(tiny(family))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    unit = direction / direction.norm()
    ids = torch.randint(3, 97, (2, 7), generator=torch.Generator().manual_seed(2))
    sites = stream_sites(checkpoint)

    def run(times: int) -> tuple[dict[Site, torch.Tensor], torch.Tensor]:
        from contextlib import ExitStack

        with torch.no_grad(), ExitStack() as stack:
            for _ in range(times):
                stack.enter_context(ablate_direction(checkpoint, direction, sites))
            seen = stack.enter_context(reading(checkpoint, sites))
            return seen, checkpoint.model(ids).logits

    seen, once = run(1)
    size = max(float(tensor.abs().max()) for tensor in seen.values())
    assert set(seen) == set(sites)
    assert all(float((x.flatten(2) @ unit).abs().max()) <= 1e-5 * size for x in seen.values())
    torch.testing.assert_close(run(2)[1], once, atol=1e-4 * float(once.abs().max()), rtol=0)


def test_ablation_by_hooks_equals_ablation_of_the_weights() -> None:
    """W ← W − r̂r̂ᵀW for all that writes to the stream; embeddings untied (Arditi et al., §4)."""
    model = tiny("llama")
    checkpoint = load(model)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    unit = direction / direction.norm()
    ids = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        with ablate_direction(checkpoint, direction, stream_sites(checkpoint)):
            hooked = model(ids).logits
        plain = model(ids).logits
        model.model.embed_tokens.weight -= torch.outer(model.model.embed_tokens.weight @ unit, unit)
        for layer in model.model.layers:
            for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
                out.weight -= torch.outer(unit, unit @ out.weight)
        edited = model(ids).logits
    scale = float(plain.abs().max())
    assert float((hooked - edited).abs().max()) <= 1e-5 * scale
    assert float((plain - edited).abs().max()) > 1e-2 * scale


def test_a_projection_is_set_to_its_value_at_its_positions_only() -> None:
    checkpoint = load(tiny("llama"))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    unit = direction / direction.norm()
    ids = torch.randint(3, 97, (2, 6), generator=torch.Generator().manual_seed(2))
    sites = [Site("resid_pre", 1), Site("resid_pre", 3)]
    where = torch.tensor([[2], [5]])
    with torch.no_grad():
        with reading(checkpoint, sites) as plain:
            checkpoint.model(ids)
        with (
            set_projection(checkpoint, direction, sites, [0.5, -2.0], where),
            reading(checkpoint, sites) as seen,
        ):
            checkpoint.model(ids)
    for site, value in zip(sites, (0.5, -2.0), strict=True):
        along = seen[site] @ unit
        assert torch.allclose(along[[0, 1], [2, 5]], torch.tensor(value), atol=1e-5)
    untouched = torch.ones(2, 6, dtype=torch.bool)
    untouched[[0, 1], [2, 5]] = False
    assert torch.equal(seen[sites[0]][untouched], plain[sites[0]][untouched])
    with (
        pytest.raises(InputError, match="1 values for 2 sites"),
        set_projection(checkpoint, direction, sites, [1.0]),
    ):
        pass


def test_a_direction_comes_back_and_belongs_to_its_model(tmp_path: Path) -> None:
    checkpoint: Checkpoint = load("organism:chat")
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 3, 2, 96)).astype(np.float32)
    states = PromptStates(values, (0, 1, 2), (-2, -1), "resid_pre")
    found: Directions = difference_in_means(states[:4], states[4:], origin=origin(checkpoint))
    made = found.at(2, -1)
    back = Direction.load(made.save(tmp_path / "d.safetensors"), checkpoint)
    assert torch.equal(back.vector, made.vector)
    assert back.describe() == made.describe()
    assert abs(float(back.unit.norm()) - 1) < 1e-6
    with pytest.raises(InputError, match="belongs to organism:chat"):
        Direction.load(tmp_path / "d.safetensors", load("organism:cliff"))
    zero = Direction(torch.zeros(3), "resid_pre", 0, -1, "instruction", "x", 1.0)
    with pytest.raises(InputError, match="zero vector"):
        _ = zero.unit


def test_directions_are_one_line() -> None:
    rng = np.random.default_rng(0)
    found = difference_in_means(made_up(rng, 8), made_up(rng, 8))
    assert repr(found) == (
        f"Directions({found.method}, resid_pre of layers 0-2 at positions -2, -1, width 16)"
    )
    one = found.at(1, -1)
    assert repr(one) == (
        f"Direction({found.method}, resid_pre of layer 1 at position -1, width 16, "
        f"length {one.norm:.4g})"
    )
