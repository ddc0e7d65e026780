"""Checks at the border: what was given, what is allowed, and how to get it."""

from pathlib import Path

import pytest

from interp.checks import named, require_choice, require_type
from interp.errors import InputError


def test_a_wrong_type_is_told_in_a_sentence() -> None:
    require_type("a", str, "name")
    require_type(Path("a"), (str, Path), "path")
    with pytest.raises(InputError) as refused:
        require_type("mine.csv", (list, tuple), "prompts", "read them with read_prompts(path)")
    assert str(refused.value) == (
        "prompts is the string 'mine.csv', and must be of type list or tuple; read them with "
        "read_prompts(path)."
    )
    with pytest.raises(InputError, match=r"^path is 3, and must be of type Path\.$"):
        require_type(3, Path, "path")


def test_a_name_outside_of_a_closed_list_is_told() -> None:
    require_choice("all", ("last", "all"), "where")
    with pytest.raises(InputError, match="where is the string 'first'; it must be one of last, al"):
        require_choice("first", ("last", "all"), "where")


def test_values_are_named_in_short() -> None:
    assert named(None) == "None" and named(2.5) == "2.5" and named(True) == "True"
    assert named([1, 2]) == "of type list"
    assert len(named("a" * 1000)) < 80
