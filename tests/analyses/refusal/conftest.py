"""Refusal findings of organisms, measured once and shared by all tests and processes."""

import os
import pickle
from collections.abc import Callable

import pytest
from filelock import FileLock

from analyses.refusal.finding import RefusalFinding
from analyses.refusal.material import of_organism
from analyses.refusal.run import refusal
from interp.resolve import load

Found = Callable[[str], RefusalFinding]


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The finding of `organism:NAME`."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    made: dict[str, RefusalFinding] = {}

    def find(name: str) -> RefusalFinding:
        if name not in made:
            path = folder / f"refusal-{name}.pickle"
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    finding = refusal(load(f"organism:{name}"), of_organism(name))
                    path.write_bytes(pickle.dumps(finding))
            made[name] = pickle.loads(path.read_bytes())
        return made[name]

    return find
