"""What every test shares: few threads, fixed seeds, no network, and the reference material."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import config, install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).parent.parent
PACKAGES = ("interp", "probes", "steering", "analyses")


def shaped_modules() -> list[str]:
    """The modules that annotate arrays: their calls are checked under test.

    The others hold no shapes, mypy checks their types, and checking every call of theirs at run
    time would take two fifths of the time of all tests.
    """
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    shaped = [path for path in files if "\nfrom jaxtyping import" in path.read_text("utf-8")]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in shaped)


install_import_hook(shaped_modules(), "beartype.beartype")


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("MECHGUARD_TEST_THREADS", "1")))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def reference() -> Callable[[str], Path]:
    """Path of a piece of reference material; a test that needs an absent one is skipped."""

    def find(relative: str) -> Path:
        home = Path(os.environ.get("MECHGUARD_REFERENCE", ROOT.parent / "shared" / "reference"))
        if not (home / relative).exists():
            pytest.skip(
                f"no reference material {relative!r}: set MECHGUARD_REFERENCE to its folder"
            )
        return home / relative

    return find


@pytest.fixture
def as_users_call() -> Iterator[None]:
    """Without the checks of types that tests add to every call, so that our own refuse."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
