"""The list of analyses, and the door beside it."""

import pytest

import mechguard
from analyses.registry import analysis, every_analysis
from interp.errors import InputError


def test_the_door_hands_on_the_function_of_every_analysis_with_a_verb() -> None:
    functions = {one.kind: one.function() for one in every_analysis() if one.verb is not None}
    assert functions == {kind: getattr(mechguard, kind.replace("-", "_")) for kind in functions}
    assert len(functions) == 8


def test_the_order_is_that_of_the_page() -> None:
    places = [one.place for one in every_analysis()]
    assert places == sorted(places) and len(set(places)) == len(places)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(InputError, match="there is no analysis 'sink'; there are sinks, refusal"):
        analysis("sink")
