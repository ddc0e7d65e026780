import subprocess
import sys
from importlib.util import find_spec

import pytest

import analyses
import interp
import probes
import probes.backdoors
import probes.scorers
import steering
from interp._lazy import attach

FACADES = [interp, probes, steering, analyses, interp.organisms, probes.backdoors, probes.scorers]


@pytest.mark.parametrize("facade", FACADES, ids=lambda facade: facade.__name__)
def test_every_public_name_resolves_twice_to_the_same(facade) -> None:
    """A function named like a submodule would turn into the module after the first use."""
    for name in facade.__all__:
        first = getattr(facade, name)
        assert getattr(facade, name) is first
        is_submodule = find_spec(f"{facade.__name__}.{name}") is not None
        assert is_submodule == (type(first).__name__ == "module")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'captrue'"):
        interp.captrue  # noqa: B018


def test_a_function_may_not_hide_behind_its_own_module() -> None:
    with pytest.raises(ValueError, match="capture"):
        attach("interp", {"capture": "capture"})


def test_one_name_imports_no_torch_for_the_others() -> None:
    code = "import sys, interp; interp.InputError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
