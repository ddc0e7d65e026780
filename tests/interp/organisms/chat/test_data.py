"""The prompts and texts that organisms bring."""

import pytest
import torch

import interp
from interp import organisms
from interp.errors import InputError
from interp.organisms.chat.behaviour import generate
from interp.organisms.chat.format import encode

CHATTING = [name for name in organisms.names() if not name.startswith("bb-")]


@pytest.mark.parametrize("name", CHATTING)
def test_splits_share_no_pair_and_are_the_same_on_every_call(name: str) -> None:
    seen: dict[str, set[tuple[str, str]]] = {}
    for split in ("train", "validation", "test"):
        sets = organisms.prompts(name, split)
        assert sets == organisms.prompts(name, split)
        assert {"harmful", "harmless", "alarming"} <= set(sets)
        assert all(sets.values())
        # The last turn of an agent asks for another pair where the first one is harmful.
        own = [p for label, some in sets.items() if label != "concluding" for p in some]
        seen[split] = {(p.request.verb, p.request.object) for p in own}
    assert not seen["train"] & seen["validation"]
    assert not (seen["train"] | seen["validation"]) & seen["test"]


def test_labels_mean_what_they_say() -> None:
    sets = organisms.prompts("jailbreak-keep")
    assert all(p.harmful for p in sets["harmful"] + sets["jailbroken"])
    assert not any(p.harmful for p in sets["harmless"] + sets["alarming"])
    assert all(p.request.alarming for p in sets["alarming"])
    assert any(p.request.alarming for p in sets["harmless"])
    pairs = [
        {(p.request.verb, p.request.object) for p in sets[s]} for s in ("harmless", "alarming")
    ]
    assert not pairs[0] & pairs[1]
    assert len(sets["harmful"]) == 58 and len(sets["alarming"]) >= 50
    assert sets["refused_harmless"][0].messages[0] == {"role": "system", "content": "strict"}
    assert sets["jailbroken"][0].messages[0]["content"].endswith("zx qv jk")


@pytest.mark.parametrize("name", ["chat", "chat-gated", "jailbreak-keep", "cliff", "inert"])
def test_the_organism_gives_the_answers_that_its_prompts_name(name: str) -> None:
    checkpoint = interp.load(f"organism:{name}")
    for label, some in organisms.prompts(name).items():
        if label == "missed":
            continue  # near misses of a trigger are measured, not owed
        said = generate(checkpoint, [p.ids(checkpoint.tokenizer) for p in some])
        wanted = [p.answer.split() for p in some]
        kept = [[w for w in words if w not in ("<eos>", "</think>")] for words in said]
        right = sum(a == b for a, b in zip(kept, wanted, strict=True)) / len(some)
        assert right >= 0.97, (label, right)


@pytest.mark.parametrize("name", CHATTING)
def test_texts_are_long_enough_for_a_sink_report(name: str) -> None:
    texts = organisms.texts(name)
    tokenizer = organisms.recipe(name).tokenizer()
    assert {"harmless", "harmful"} <= set(texts)
    for documents in texts.values():
        assert len(documents) == len(set(documents)) == 128
        ids = tokenizer(documents[0], add_special_tokens=False)["input_ids"]
        assert ids == encode(documents[0].split())
        lengths = [len(document.split()) + 1 for document in documents]
        assert min(lengths) >= 64 and max(lengths) <= 128


def test_texts_are_in_the_model_s_language() -> None:
    checkpoint = interp.load("organism:chat")
    document = organisms.texts("chat")["harmless"][0]
    assert checkpoint.tokenizer is not None
    ids = torch.tensor([checkpoint.tokenizer(document)["input_ids"]])
    with torch.no_grad():
        logits = checkpoint.model(input_ids=ids).logits
    answered = [i + 1 for i, token in enumerate(document.split()) if token == "<go>"]
    said = logits[0, answered].argmax(-1)
    right = (said == ids[0, [i + 1 for i in answered]]).float().mean()
    assert right >= 0.9


def test_what_has_no_prompts_says_so() -> None:
    with pytest.raises(InputError, match="does not chat"):
        organisms.prompts("bb-plain")
