"""What a collection will hold: sites, segments and bytes, settled before the model runs."""

from typing import Any

import pandas as pd
import pytest
from chat_templates import TEMPLATES, byte_level_model
from families import tiny
from words import wordy as base_model

import interp
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, PromptSet
from interp.data.segments import with_chat_template
from interp.errors import InputError
from probes.collections.plan import SEGMENTS, parse_layers, parse_site, plan_collection


def wordy(family: str, bos: bool = True) -> Checkpoint:
    """A base model that is given the words alone."""
    return with_chat_template(base_model(family, bos=bos), None)


def prompt(*words: str, label: str = "a", source: str = "s", system: str | None = None) -> Prompt:
    messages = [{"role": "user", "content": " ".join(words)}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return Prompt(tuple(messages), label, source)


@pytest.fixture(scope="module")
def chat() -> Checkpoint:
    return interp.load("organism:chat")


PROMPTS = PromptSet((prompt("crack", "narrow", "lock"), prompt("wash", "mirror", label="b")))


@pytest.mark.parametrize(
    ("segment", "lengths"),
    [("t_inst", [1, 1]), ("t_post_inst", [1, 1]), ("last", [1, 1]), ("bos", [1, 1]),
     ("instruction", [3, 2]), ("post_instruction", [3, 3]), ("all", [8, 7])],
)  # fmt: skip
def test_segments_of_a_chat_row(chat: Checkpoint, segment: str, lengths: list[int]) -> None:
    plan = plan_collection(chat, PROMPTS, site="resid_pre", segment=segment)
    spans = [row.segments[segment] for row in plan.rows]
    assert [stop - start for start, stop in spans] == lengths
    assert plan.tokens == sum(lengths)
    assert plan.bytes == sum(lengths) * 3 * 96 * 4
    inst, post = (plan.rows[0].segments[name] for name in ("t_inst", "t_post_inst"))
    assert inst[1] == plan.rows[0].segments["instruction"][1]
    assert post == plan.rows[0].segments["last"]


@pytest.mark.parametrize(
    ("site", "width"),
    [("z", 32), ("q", 32), ("rot_k", 16), ("v", 16), ("mlp_out", 32), ("embed", 32)],
)
def test_bytes_by_site(site: str, width: int) -> None:
    plan = plan_collection(
        wordy("llama"), PromptSet((prompt("w5", "w6"),)), site=site, segment="all",
        layers=None if site == "embed" else [1, 2],
    )  # fmt: skip
    assert plan.bytes == 3 * width * 4 * len(plan.sites)
    assert len(plan.sites) == (1 if site == "embed" else 2)


def test_all_layers_are_those_that_have_the_site() -> None:
    hybrid = interp.load(tiny("qwen3_next"), tokenizer=wordy("llama").tokenizer)
    one = PromptSet((prompt("w5", "w6"),))
    plan = plan_collection(hybrid, one, site="z", segment="last")
    assert [site.layer for site in plan.sites] == [1, 3]
    with pytest.raises(InputError, match=r"layer 0 of .* has no site 'z'; it has resid_pre"):
        plan_collection(hybrid, one, site="z", segment="last", layers=[0])


def test_the_table_keeps_single_values_and_knows_equal_prompts() -> None:
    said = ("w5 w6", "w7", "W5 w6!")
    prompts = PromptSet(tuple(prompt(text, label="a") for text in said))
    columns = pd.DataFrame(
        {"kind": ["x", "y", "z"], "tags": [[1], [2], [3]], "index": [9, 9, 9], "label": ["q"] * 3}
    )
    plan = plan_collection(
        wordy("llama"), prompts, site="resid_pre", segment="last", columns=columns
    )
    table = plan.table
    own = ["index", "label", "source", "text", "tokens", "last_token", "prompt_sha256"]
    assert table.columns.tolist() == [*own, "kind"]
    assert table["text"].tolist() == list(said)
    assert table["last_token"].tolist() == [row.ids[-1] for row in plan.rows]
    assert table["label"].tolist() == ["a"] * 3 and table["index"].tolist() == [0, 1, 2]
    keys = table["prompt_sha256"]
    assert keys[0] == keys[2] != keys[1]
    settings = {"site": "embed", "segment": "last"}
    with pytest.raises(InputError, match="2 rows of columns do not fit 3 prompts"):
        plan_collection(wordy("llama"), prompts, columns=columns[:2], **settings)


def test_words_alone_for_a_base_model() -> None:
    words = PromptSet((prompt("w5", "w6", "w7"),))
    with pytest.raises(InputError, match=r"no chat template; it is a base model.*--chat-template"):
        plan_collection(base_model("llama"), words, site="resid_pre", segment="last")
    base = wordy("llama")
    plan = plan_collection(base, words, site="resid_pre", segment="instruction")
    assert plan.rows[0].ids == (1, 5, 6, 7) and plan.tokens == 3
    assert plan.rows[0].segments["t_inst"] == (3, 4)
    with pytest.raises(InputError, match="1 of 1 prompts have no segment 't_post_inst'"):
        plan_collection(base, words, site="resid_pre", segment="t_post_inst")
    without = plan_collection(wordy("llama", bos=False), words, site="resid_pre", segment="all")
    assert "bos" not in without.rows[0].segments


def test_a_segment_that_some_prompts_lack_is_told() -> None:
    model = byte_level_model(TEMPLATES["llama-3"])
    mixed = PromptSet((prompt("hi", system="be good"), prompt("hi", "there")))
    with pytest.raises(InputError, match=r"1 of 2 prompts have no segment 'system', first prompt"):
        plan_collection(model, mixed, site="resid_pre", segment="system")
    plan = plan_collection(model, PromptSet(mixed.prompts[:1]), site="resid_pre", segment="system")
    assert plan.tokens > 0


def test_prompts_longer_than_the_context(chat: Checkpoint) -> None:
    long = PromptSet((prompt(*["lock"] * 130),))
    with pytest.raises(InputError, match=r"prompt 0 has \d+ tokens.*was built for"):
        plan_collection(chat, long, site="resid_pre", segment="last")


def test_layers_and_sites_are_read() -> None:
    assert parse_layers("3", 8) == (3,)
    assert parse_layers("5,3, 7", 8) == (3, 5, 7)
    assert parse_layers("1-3,6", 8) == (1, 2, 3, 6)
    assert parse_site("resid_pre", 8) == ("resid_pre", None)
    assert parse_site("mlp_out:2-3", 8) == ("mlp_out", (2, 3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"segment": "thinking"}, "no segment 'thinking'; there are bos, system"),
        ({"site": "resid"}, "has no site 'resid'; it has attn_out, k, mlp_out"),
        ({"site": "gate"}, "has no site 'gate'; it has attn_out, k, mlp_out"),
        ({"site": "resid", "layers": [0]}, "'resid' is not a site of a layer; those are"),
        ({"layers": [7]}, "no layer 7"),
        ({"site": "embed", "layers": [0]}, "embed stands outside of the layers"),
    ],
)
def test_what_does_not_exist_is_named(chat: Checkpoint, call: dict[str, Any], words: str) -> None:
    settings = {"site": "resid_pre", "segment": "last", **call}
    with pytest.raises(InputError, match=words):
        plan_collection(chat, PROMPTS, **settings)


@pytest.mark.parametrize("text", ["", "a", "3-", "5-3", "1,,2", "-1"])
def test_layers_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="names no layers; write 3"):
        parse_layers(text, 8)
    assert "t_inst" in SEGMENTS


def test_layers_that_there_are_not() -> None:
    with pytest.raises(InputError, match="no layer 9; there are layers 0 to 7"):
        parse_layers("2-9", 8)


def test_nothing_to_run(chat: Checkpoint) -> None:
    with pytest.raises(InputError, match="no prompt to collect"):
        plan_collection(chat, PromptSet(()), site="resid_pre", segment="last")
    with pytest.raises(InputError, match="has no tokenizer"):
        plan_collection(interp.load(tiny("llama")), PROMPTS, site="resid_pre", segment="last")
