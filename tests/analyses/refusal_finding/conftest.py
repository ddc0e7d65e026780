"""Refusal findings of organisms, measured once and shared by all tests."""

from collections.abc import Callable

import pytest

from analyses.refusal_finding.finding import RefusalFinding
from analyses.refusal_finding.material import of_organism
from analyses.refusal_finding.run import refusal
from interp.checkpoint import load

Found = Callable[[str], RefusalFinding]


@pytest.fixture(scope="session")
def found() -> Found:
    """The finding of `organism:NAME`."""
    made: dict[str, RefusalFinding] = {}

    def find(name: str) -> RefusalFinding:
        if name not in made:
            made[name] = refusal(load(f"organism:{name}"), of_organism(name))
        return made[name]

    return find
