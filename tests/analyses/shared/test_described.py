"""Descriptions of runs: other scorers and data differ, and nothing else does."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny

from analyses.shared.code_digest import code_digest
from analyses.shared.described import described

LIMIT = 3


def helper(number: int) -> int:
    return number + 1


def read_global(number: int) -> bool:
    return number > LIMIT


def calls(number: int) -> int:
    return helper(number)


def keyword(number: int, *, limit: int = 3) -> bool:
    return number > limit


class Scorer:
    shared = 1

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def score(self, number: int) -> bool:
        return number > self.limit


class Slotted:
    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit


class Derived(Scorer):
    pass


class Circular:
    def __init__(self) -> None:
        self.one = self.two = self.three = self
        self.held = {"self": self, "list": [self]}


def typed(text: str) -> Any:
    """A function as it is typed in, without a source file."""
    names: dict[str, Any] = {}
    exec(text, names)
    return names["f"]


def big(number: int) -> np.ndarray:
    return np.where(np.arange(5000) == 2500, number, 0)


# fmt: off
ONE, OTHER = (lambda number: number > 1), (lambda number: number > 2)
# fmt: on

PAIRS: dict[str, tuple[Any, Any]] = {
    "bound methods": (Scorer(1).score, Scorer(2).score),
    "partial functions": (partial(keyword, limit=1), partial(keyword, limit=2)),
    "arrays of partial functions": (partial(keyword, limit=big(1)), partial(keyword, limit=big(2))),
    "functions of partial functions": (partial(helper, 1), partial(calls, 1)),
    "lambdas on one line": (ONE, OTHER),
    "typed in": (
        typed("def f(x): return x.upper()"),
        typed("def f(x): return x.lower()"),
    ),
    "slots": (Slotted(1), Slotted(2)),
    "methods of built-in objects": ({"a"}.__contains__, {"b"}.__contains__),
    "long patterns": (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
    "flags of patterns": (re.compile("a"), re.compile("a", re.IGNORECASE)),
    "arrays of objects": (np.array([{"a": 1}], object), np.array([{"a": 2}], object)),
    "dtypes": (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
    "keys": ({1: "a", "1": "b"}, {1: "b", "1": "a"}),
    "classes": (Scorer, Slotted),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=list(PAIRS))
def test_what_differs_is_described_differently(one: Any, other: Any) -> None:
    assert described(one) != described(other)
    assert json.dumps(described(one)) == json.dumps(described(one))


@pytest.mark.parametrize(
    ("scorer", "where", "name", "now"),
    [
        (read_global, None, "LIMIT", 4),
        (calls, None, "helper", ONE),
        (keyword, keyword, "__kwdefaults__", {"limit": 9}),
        (Derived(1), Scorer, "score", ONE),
        (Scorer(1), Scorer, "shared", 2),
        (Scorer, Scorer, "shared", 2),
    ],
)
def test_what_a_scorer_reads_elsewhere_is_of_it(
    scorer: Any, where: Any, name: str, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = described(scorer)
    monkeypatch.setattr(where or sys.modules[__name__], name, now)
    assert described(scorer) != before


def test_a_function_that_is_defined_again_is_the_same() -> None:
    text = "def f(x): return [y for y in (lambda: x)() if y in {'a', 'b', 'c'}]"
    assert described(typed(text)) == described(typed(f"\n\n# a comment\n{text}"))


def test_closures_hold_modules_and_themselves_and_nothing_yet() -> None:
    def with_module() -> Callable[..., Any]:
        import numpy

        return lambda values: numpy.mean(values) + LIMIT

    def itself() -> Callable[..., Any]:
        def fall(number: int) -> int:
            return fall(number - 1) if number else 0

        return fall

    def unset() -> Callable[..., Any]:
        def read() -> Any:
            return later

        if not LIMIT:
            later = 1
        return read

    for made in (with_module, itself, unset):
        assert described(made()) == described(made())
        assert len(json.dumps(described(made()))) < 1000


def test_an_object_that_holds_itself_is_described_once() -> None:
    assert len(json.dumps(described(Circular()))) < 1000


def test_a_judging_model_is_its_weights_and_its_config() -> None:
    model: Any = tiny("llama")
    before = described(model)
    model.config.rms_norm_eps = 0.5
    assert described(model) != before and described(model)["weights"] == before["weights"]


def test_code_has_one_digest_in_all_processes(tmp_path: Path) -> None:
    (tmp_path / "judging.py").write_text(
        "WORDS = {'alpha', 'beta', 'gamma', 'delta'}\n"
        "class Judge:\n"
        "    def __call__(self, text): return text in WORDS or text in {'a', 'b', 'c', 'd'}\n"
    )
    code = (
        "import judging; from analyses.shared.code_digest import code_digest as digest; "
        "print(digest(judging.Judge))"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1 and code_digest(Scorer) not in found
