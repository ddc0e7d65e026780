"""Policies as data: what fits together, and what comes back from a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny
from policies import CASES, generate, post, prompts, tiny_model, vectors

from interp.doctor.model_under_test import ModelUnderTest
from interp.errors import InputError
from interp.model import artifacts
from interp.model.artifacts import Artifact
from interp.model.sites import Site
from interp.resolve import load
from steering import act_add, alphasteer, angular, cast, rank_one, was, was_plus
from steering.policy.composition import compose, per_row
from steering.policy.policy import Policy
from steering.runtime.gates import AlwaysOpen, ControllerGate, CosineGate, LogisticGate
from steering.runtime.runtime import apply, attach
from steering.runtime.span import Span


@pytest.fixture(scope="module")
def p() -> ModelUnderTest:
    return tiny_model("llama")


def test_a_policy_comes_back_and_steers_the_same(p: ModelUnderTest, tmp_path: Path) -> None:
    ids, real = prompts(p)
    for name, make in CASES.items():
        policy = make(p).bound(p.checkpoint, seed=3)
        where = tmp_path / (name if name != "gated" else "gated.safetensors")
        file = policy.save(where)
        assert file.suffix == ".safetensors" and file.exists()
        again = Policy.load(where, p.checkpoint)
        assert again.meta == policy.meta and again.meta["seed"] == 3
        for each in ("name", "method", "sites", "span", "operator", "strength", "keep_norm"):
            assert getattr(again, each) == getattr(policy, each)
        with apply(p.checkpoint, policy):
            expected = generate(p, ids, real)
        with apply(p.checkpoint, again):
            assert torch.equal(generate(p, ids, real), expected), name


def test_a_policy_belongs_to_its_model(p: ModelUnderTest, tmp_path: Path) -> None:
    other = load(tiny("llama", seed=5))
    file = CASES["gated"](p).bound(p.checkpoint).save(tmp_path)
    with pytest.raises(InputError, match=r"belongs to .* weights .* allow"):
        Policy.load(tmp_path, other)
    policy = Policy.load(file)
    with pytest.raises(InputError, match="belongs to"):
        attach(other, policy)
    attach(other, policy, allow={"fingerprint"}).detach()
    wider = load(tiny("gpt2"))
    narrow = act_add(post(1), torch.randn(1, 16))
    with pytest.raises(InputError, match="is 16 wide, but the residual stream"):
        attach(wider, narrow)
    with pytest.raises(InputError, match="no layer 9"):
        attach(wider, act_add(post(9), torch.randn(1, 32)))


def test_a_damaged_file_is_refused_in_a_sentence(p: ModelUnderTest, tmp_path: Path) -> None:
    policy = CASES["was_plus"](p)
    with pytest.raises(InputError, match="bound"):
        policy.save(tmp_path)
    file = policy.bound(p.checkpoint).save(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        Policy.load(file)
    file.write_bytes(whole)
    good = artifacts.load(file)
    lacking = {k: v for k, v in good.tensors.items() if k != "directions"}
    broken: dict[str, Artifact] = {
        "no complete policy": Artifact("policy", lacking, good.meta),
        "where a policy is needed": Artifact("direction", good.tensors, good.meta),
        "incomplete or does not fit": Artifact(
            "policy", {k: v for k, v in good.tensors.items() if k != "gate.head.bias"}, good.meta
        ),
        "no operator": Artifact("policy", good.tensors, {**good.meta, "operator": "shove"}),
    }
    for message, artifact in broken.items():
        artifacts.save(file, artifact)
        with pytest.raises(InputError, match=message):
            Policy.load(file)
    with pytest.raises(InputError, match="does not exist"):
        Policy.load(tmp_path / "nowhere")


def test_nan_never_gets_into_a_policy_or_out_of_a_file(p: ModelUnderTest, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        act_add(post(1), vectors(p, 1) * torch.nan)
    policy = CASES["was_plus"](p).bound(p.checkpoint)
    with torch.no_grad():
        policy.gate.get_parameter("head.bias")[0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        policy.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_spans_hold_tokens() -> None:
    assert Span.everything() == Span(None, None) and Span.prompt() == Span(None, 0)
    assert Span.decode() == Span(0, None) and Span.last() == Span(-1, 0)
    assert Span.onward(-3) == Span(-3, None)
    for start, stop, skip in ((0, 0, 0), (2, 1, 0), (None, None, -1)):
        with pytest.raises(InputError, match="holds no token"):
            Span(start, stop, skip)


def test_what_does_not_fit_together_is_refused(p: ModelUnderTest) -> None:
    width = p.checkpoint.anatomy.width
    gate = LogisticGate(post(1), vectors(p, 1), position=-1)
    good: dict[str, Any] = {
        "name": "x",
        "method": "x",
        "sites": tuple(post(1, 2)),
        "directions": vectors(p, 2),
        "weights": (1.0, 1.0),
    }
    Policy(**good)
    for message, change in {
        "at least one site": {"sites": ()},
        "edits resid_pre or resid_post": {"sites": (Site("attn_out", 1), Site("resid_post", 2))},
        "order of the layers": {"sites": tuple(post(2, 1))},
        "one of each for every site": {"weights": (1.0,)},
        "a weight of policy": {"weights": (1.0, float("inf"))},
        "readers go with": {"operator": "map"},
        "pointing nowhere": {"operator": "rotate", "directions": torch.zeros(2, width)},
        "cannot edit what stands before": {"gate": gate, "span": Span.everything()},
        "decides at position -1": {"gate": gate, "span": Span(-2, None)},
        "weighs 3 sites": {"gate": ControllerGate(post(1), width, 3, 4)},
    }.items():
        with pytest.raises(InputError, match=message):
            Policy(**{**good, **change})
    Policy(**{**good, "span": Span.everything()})


def test_a_site_of_weight_0_gets_no_hook(p: ModelUnderTest) -> None:
    policy = replace(act_add(post(0, 1, 2), vectors(p, 3)), weights=(0.0, 1.0, 0.0))
    with apply(p.checkpoint, policy) as attachment:
        assert list(attachment.fired) == post(1)
        hooks = [len(layer._forward_hooks) for layer in p.checkpoint.layers]
        assert hooks == [0, 1, 0, 0]


def test_late_policies_edit_below_what_their_gate_reads(p: ModelUnderTest) -> None:
    late = {name: make(p).late for name, make in CASES.items()}
    assert {name for name, is_late in late.items() if is_late} == {"was", "was_plus"}


def test_the_published_methods_say_what_they_do(p: ModelUnderTest) -> None:
    v, width = vectors(p, 2), p.checkpoint.anatomy.width
    condition = CosineGate(post(0), vectors(p, 1), 0.1, position=-3)
    straight, skewed = (cast(post(1, 2), v, condition, skew=skew) for skew in (False, True))
    assert straight.sites == tuple(post(1, 2)) and straight.span == Span.onward(-3)
    assert skewed.sites == (Site("resid_pre", 1), Site("resid_pre", 2))
    steered = was(3 * v[0], 4, ControllerGate(post(2, 3), width, 4))
    assert torch.allclose(steered.directions.norm(dim=-1), torch.ones(4))
    assert steered.sites == tuple(post(0, 1, 2, 3)) and steered.span == Span.decode()
    assert steered.strength == 2.0
    with pytest.raises(InputError, match="points nowhere"):
        was(torch.zeros(width), 4, ControllerGate(post(2, 3), width, 4))
    plus = was_plus(post(1, 2), v, condition, 0.2, weights=[1.0, 0.5], span=Span.onward())
    assert plus.operator == "relative" and plus.weights == (1.0, 0.5)
    assert isinstance(angular(post(1), v[:1], 0.5).gate, AlwaysOpen)


def test_a_map_of_rank_one_is_the_whole_matrix(p: ModelUnderTest) -> None:
    """Ridge regression onto one vector: D̃ P̂ h for the fitted matrices equals r (c · h)."""
    width, prompts_in = p.checkpoint.anatomy.width, 200
    generator = torch.Generator().manual_seed(0)
    harmful = torch.randn(prompts_in, width, generator=generator).double()
    r = torch.randn(width, generator=generator).double()
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator).double())[0][:, :20]
    null = basis @ basis.T
    x = harmful @ null
    regression = (r[None].expand(prompts_in, -1).T @ x) @ torch.linalg.inv(
        x.T @ x + 10 * torch.eye(width).double()
    )
    matrix = (regression @ null).float()
    directions, readers = rank_one(matrix[None])
    states = torch.randn(3, width, generator=generator)
    expected = states @ matrix.T
    found = (states @ readers[0])[:, None] * directions[0]
    assert torch.allclose(found, expected, atol=1e-5)
    assert alphasteer(post(1), directions, readers).operator == "map"
    with pytest.raises(InputError, match="not of rank one"):
        rank_one(torch.eye(width)[None])


def test_a_policy_and_a_composition_are_one_line(p: ModelUnderTest) -> None:
    policy = CASES["gated"](p).bound(p.checkpoint)
    told = repr(policy)
    assert told.startswith(f"Policy({policy.name}: {policy.operator} at resid_p")
    assert f"{policy.gate.kind} gate" in told and p.checkpoint.name in told
    other = act_add(post(0, 1, 2), vectors(p, 3))
    assert repr(other) == (
        f"Policy(actadd: add at resid_post of layers 0-2, open gate, strength 1, "
        f"width {other.width}, bound to no checkpoint)"
    )
    assert repr(compose(policy, other)) == f"Composition({policy.name}, then actadd)"
    rows = per_row([other, None, other])
    assert repr(rows) == "Composition(actadd, by row, 3 rows)"
    assert all("\n" not in repr(one) and len(repr(one)) < 250 for one in (policy, other, rows))


def test_what_is_no_policy_path_or_strength_is_refused(
    p: ModelUnderTest, as_users_call: None
) -> None:
    wrong: Any
    policy = act_add(post(1), vectors(p, 1))
    for wrong in (3, None, policy):
        with pytest.raises(
            InputError, match=r"^path is .*must be of type str or Path; name the fo"
        ):
            Policy.load(wrong)
    for wrong in ("strong", None, ["a"], [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match=r"^strength is .*; give one number, one for each row"):
            attach(p.checkpoint, policy, wrong)
    for wrong in ("runs/policy", Path("runs/policy"), 3, [policy, "runs/policy"]):
        with pytest.raises(InputError, match=r"of type Policy.*; read one with mechguard\.Policy"):
            attach(p.checkpoint, wrong)
    wrong = "runs/policy"
    with pytest.raises(InputError, match=r"^a policy is the string 'runs/policy'"):
        compose(policy, wrong)
    wrong = "organism:chat"
    with pytest.raises(InputError, match=r"^model is the string 'organism:chat', .*mechguard"):
        attach(wrong, policy)
    with (
        pytest.raises(InputError, match=r"^strength is the string 'strong'"),
        apply(p.checkpoint, policy, wrong := "strong"),
    ):
        pass
