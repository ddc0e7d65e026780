"""Methods register themselves: a file more in the package is a method more, everywhere."""

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from analyses.cli.artefacts.steer import app
from analyses.steering.material import organism_training
from interp.errors import InputError
from interp.resolve import load
from steering.training import methods, registry, trainable_method
from steering.training.fit import train
from steering.training.options import Options
from steering.training.registry import names, require_method, summaries
from steering.training.trainable_method import Method, trainable

SIXTH = '''"""Addition of a fixed vector, to show how a method is added."""

import torch

from interp.model.sites import Site
from steering.training.candidates import Fitted
from steering.training.methods.actadd import act_add
from steering.training.trainable_method import trainable


@trainable("fixed-vector")
def candidates(read, options, workdir, progress):
    policy = act_add([Site("resid_post", 1)], torch.ones(1, read.checkpoint.anatomy.width), 0.5)
    return Fitted([({"strength": 0.5}, policy)], {"seen": len(read.layers)})
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A further folder of the package of methods, and a registry that forgets what it brings."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    known = dict(registry.REGISTERED)
    monkeypatch.setattr(registry, "REGISTERED", known)
    monkeypatch.setattr(trainable_method, "REGISTERED", known)
    for name in ("fixed_vector", "nameless"):  # set to be taken away again when the test ends
        monkeypatch.setitem(sys.modules, f"steering.training.methods.{name}", None)
        del sys.modules[f"steering.training.methods.{name}"]
        monkeypatch.setattr(methods, name, None, raising=False)
    return tmp_path


def test_every_method_has_a_name_a_summary_and_a_way_to_be_fitted() -> None:
    assert names() == ("was-plus", "actadd", "alphasteer", "cast", "was")
    told = summaries()
    assert tuple(told) == names()
    assert all(len(one) > 20 and one.endswith(".") for one in told.values())
    for name in names():
        method = require_method(name)
        assert method == Method(name, method.candidates) and callable(method.candidates)


def test_a_file_more_is_a_method_more(package: Path) -> None:
    (package / "fixed_vector.py").write_text(SIXTH)
    assert names()[0] == "was-plus" and "fixed-vector" in names()
    assert summaries()["fixed-vector"].startswith("Addition of a fixed vector")
    with pytest.raises(InputError, match=r"there is no method 'magic'; there are .*fixed-vector"):
        require_method("magic")
    checkpoint = load("organism:chat")
    quick = Options(prompts=4, max_new_tokens=4)
    policy = train(checkpoint, organism_training(checkpoint, 40), "fixed-vector", quick)
    assert policy.strength == 0.5 and policy.sites[0].layer == 1
    record = policy.meta["training"]
    assert record["seen"] == 3 and record["calibration"] is None and len(record["trials"]) == 1


def test_a_file_that_registers_nothing_is_named(package: Path) -> None:
    (package / "nameless.py").write_text('"""Nothing."""\n')
    with pytest.raises(LookupError, match=r"methods.nameless registers no method 'nameless'"):
        require_method("nameless")


def test_a_method_outside_of_the_package_can_be_registered(package: Path) -> None:
    def candidates(read: Any, options: Any, workdir: Any, progress: Any) -> Any:
        raise NotImplementedError

    trainable("mine")(candidates)
    assert require_method("mine").candidates is candidates and "mine" in names()
    with pytest.raises(ValueError, match="'mine' is registered twice"):
        trainable("mine")


def test_the_command_line_lists_the_methods() -> None:
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    words = " ".join(shown.replace("│", " ").split())
    for name in names():
        assert f"{name}: " in words
