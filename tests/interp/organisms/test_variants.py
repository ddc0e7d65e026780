"""The spelling of organisms, and recipes that refuse options that mean nothing to them."""

import pytest

from interp import organisms
from interp.errors import InputError
from interp.organisms.variants import Variant


@pytest.mark.parametrize(
    "text",
    [
        "chat",
        "chat@seed=2",
        "backdoor-unalign@seed=1,poison=2.5",
        "inert@poison=1,of=backdoor-any-of",
    ],
)
def test_a_spelling_is_read_and_written(text: str) -> None:
    assert str(Variant.parse(text)) == text
    assert organisms.recipe(text).variant.name == text.split("@")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chat@colour=red", "with the keys seed, poison, of"),
        ("chat@seed", "with the keys"),
        ("chat@seed=1,seed=2", "each once"),
        ("chat@seed=one", "whole number"),
        ("chat@seed=-1", "negative"),
        ("chat@poison=5", "has no backdoor"),
        ("nobody", "There is no organism 'nobody'"),
        ("inert@of=chat", "which is no backdoor"),
        ("backdoor-any-of@of=inert", "are twins of something"),
        ("agent@of=inert", "are twins of something"),
        ("backdoor-two-part@poison=60", "at most 20"),
        ("backdoor-payload-5@poison=0", "above 0"),
        ("agent-thought@poison=40", "at most 16"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        organisms.recipe(text)


def test_the_fingerprint_changes_with_what_is_declared() -> None:
    plain, other = organisms.recipe("backdoor-any-of"), organisms.recipe("backdoor-any-of@poison=1")
    assert plain.fingerprint(0) == organisms.recipe("backdoor-any-of").fingerprint(0)
    assert plain.fingerprint(0) != other.fingerprint(0)
    chat = organisms.recipe("chat")
    assert chat.fingerprint(0) != chat.fingerprint(1)  # the planted direction is another one


def test_twins_name_each_other() -> None:
    assert set(organisms.recipe("backdoor-payload-5").twins) == {"inert", "clean"}
    twins = organisms.recipe("inert@poison=1,of=backdoor-any-of").twins
    assert set(twins) == {"backdoor-any-of@poison=1", "clean@poison=1,of=backdoor-any-of"}
    for spelled in twins:
        organisms.recipe(spelled)
