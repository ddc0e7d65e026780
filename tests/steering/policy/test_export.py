"""Exports read back with the readers of others, and what they lose."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from policies import CASES, gated, generate, logistic, post, prompts, tiny_model, vectors

from interp.capture.prompt_states import prompt_rows
from interp.data.prompt_sets import Prompt
from interp.doctor.model_under_test import ModelUnderTest
from interp.errors import InputError
from interp.model.sites import Site
from interp.resolve import load
from steering import act_add, was_plus
from steering.policy.export import LOST, _apply, export_policy, losses, static_part, typical_norms
from steering.policy.importing import read_vectors
from steering.policy.policy import Policy
from steering.runtime.runtime import apply
from steering.runtime.span import Span


@pytest.fixture(scope="module")
def p() -> ModelUnderTest:
    return tiny_model("llama")


def everywhere(p: ModelUnderTest, *sites: Site) -> Policy:
    policy = act_add(list(sites), vectors(p, len(sites), 2.0), 1.5, Span.everything())
    return replace(policy, weights=(0.5,) * len(sites)).bound(p.checkpoint)


def test_a_gguf_file_is_what_repeng_and_llama_cpp_read(p: ModelUnderTest, tmp_path: Path) -> None:
    policy = everywhere(p, Site("resid_post", 1), Site("resid_pre", 3))
    path = tmp_path / "new" / "vector.gguf"
    lost = export_policy(policy, "gguf", path)
    reader = gguf.GGUFReader(path)
    fields: Any = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 2
    assert fields[LOST] == lost and len(lost) == 1
    stored = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    # The input of block 3 is the output of block 2.
    assert set(stored) == {"direction.1", "direction.2"}
    for name, direction in zip(("direction.1", "direction.2"), policy.directions, strict=True):
        assert stored[name].dtype == torch.float32
        assert torch.equal(stored[name], 0.75 * direction)


def test_what_comes_back_steers_the_same(p: ModelUnderTest, tmp_path: Path) -> None:
    ids, real = prompts(p)
    policy = everywhere(p, Site("resid_post", 1), Site("resid_pre", 3))
    export_policy(policy, "gguf", tmp_path / "v.gguf")
    found = read_vectors(tmp_path / "v.gguf")
    again = found.policy(p.checkpoint)
    assert found.layers == (1, 2) and again.sites == tuple(post(1, 2))
    with apply(p.checkpoint, policy), torch.no_grad():
        logits, tokens = p.logits(ids, real), generate(p, ids, real)
    with apply(p.checkpoint, again), torch.no_grad():
        torch.testing.assert_close(p.logits(ids, real), logits)
        assert torch.equal(generate(p, ids, real), tokens)


def test_a_gate_and_a_span_are_lost_and_said_to_be(p: ModelUnderTest, tmp_path: Path) -> None:
    policy = gated(p, logistic(p)).bound(p.checkpoint)
    lost = export_policy(policy, "lm-eval", tmp_path / "steer.pt")
    assert "logistic gate" in lost[0] and "every prompt is steered" in lost[0]
    assert "from token -1 on" in lost[1] and "weights and chat template" in lost[-1]
    entries = torch.load(tmp_path / "steer.pt", weights_only=True)
    (entry,) = entries.values()
    assert list(entries) == ["layers.2"] and entry[LOST] == lost and entry["action"] == "add"
    torch.testing.assert_close(entry["steering_vector"], policy.directions[0])
    assert not any("span" in line for line in losses(policy, keeps_span=True))


def test_an_easysteer_spec_keeps_the_span(p: ModelUnderTest, tmp_path: Path) -> None:
    policy = gated(p, logistic(p)).bound(p.checkpoint)
    lost = export_policy(policy, "easysteer", tmp_path / "spec.json")
    assert not any("span" in line for line in lost)
    spec = json.loads((tmp_path / "spec.json").read_text())
    (vector,) = spec["vectors"]
    assert vector["layers"] == [2] and vector["algorithm"] == "direct"
    assert vector["apply"]["prompt_window"] == [-1, None]
    assert read_vectors(Path(vector["source"])).layers == (2,)


@pytest.mark.parametrize(
    "span",
    [
        Span(a, b, s)
        for a in (None, -3, 0, 2)
        for b in (None, -1, 0, 4)
        for s in (0, 2)
        if a is None or b is None or a < b
    ],
)
def test_an_easysteer_clause_selects_the_tokens_of_the_span(span: Span) -> None:
    length, new = 6, 6
    clause, chosen = _apply(span), set()
    if "prompt" in clause["phases"]:
        window = slice(*clause.get("prompt_window", (0, None)))
        without = range(*clause.get("exclude_prompt_window", (0, 0)))
        chosen |= {i for i in range(length)[window] if i not in without}
    if "generation" in clause["phases"]:
        chosen |= {length + i for i in range(new)[slice(*clause["generation_window"])]}
    wanted = {
        i
        for i in range(length + new)
        if (span.start is None or i - length >= span.start)
        and (span.stop is None or i - length < span.stop)
        and (i >= length or i >= span.skip)
    }
    assert chosen == wanted


def test_a_relative_strength_needs_norms(p: ModelUnderTest, tmp_path: Path) -> None:
    policy = was_plus(post(1), vectors(p, 1), logistic(p), 0.5).bound(p.checkpoint)
    with pytest.raises(InputError, match="typical norm for each of its 1 sites"):
        export_policy(policy, "gguf", tmp_path / "x.gguf")
    vector = static_part(policy, [8.0])[1]
    torch.testing.assert_close(vector.norm(), torch.tensor(4.0))
    lost = export_policy(policy, "gguf", tmp_path / "x.gguf", norms=[8.0])
    assert any("relative" in line for line in lost)


def test_what_cannot_be_exported(p: ModelUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for policy, to, words in (
        (CASES["angular"](p), "gguf", "operator is rotate"),
        (CASES["alphasteer"](p), "gguf", "operator is map"),
        (everywhere(p, Site("resid_post", 0)), "gguf", "output of block 1"),
        (everywhere(p, Site("resid_pre", 0)), "lm-eval", "layer 0 is none"),
        (everywhere(p, *post(1, 2)), "lm-eval", "one site"),
        (everywhere(p, *post(1)), "mp3", "no format 'mp3'"),
        (everywhere(p, *post(1)), "easysteer", "ends in .json"),
    ):
        with pytest.raises(InputError, match=words):
            export_policy(policy, to, path)
    assert not list(tmp_path.iterdir())


def test_typical_norms_are_those_of_the_last_prompt_tokens() -> None:
    model = load("organism:chat")
    texts = ("wash apron", "please bypass alarm")
    said = [Prompt(({"role": "user", "content": text},), "", "") for text in texts]
    rows = prompt_rows(model, said)
    sites = [Site("resid_pre", 1), Site("resid_post", 1)]
    width = model.anatomy.width
    found = typical_norms(model, act_add(sites, torch.ones(2, width)), rows)
    wanted = []
    with torch.no_grad():
        for row in rows:
            states = model.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states
            wanted.append([float(states[layer][0, -1].norm()) for layer in (1, 2)])
    assert found == pytest.approx(torch.tensor(wanted).mean(0).tolist(), rel=1e-4)
