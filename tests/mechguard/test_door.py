"""The door: every name is there, typed and lazy, and a module that hides one of ours is named."""

import ast
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import mechguard

ROOT = Path(__file__).parents[2]
HOME = ROOT / "mechguard" / "__init__.py"


def _python(
    code: str, folder: Path, where: Path = ROOT, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, with the packages of `where` in front of all others."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(where)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_name_is_handed_on_and_typed() -> None:
    for name in mechguard.__all__:
        assert getattr(mechguard, name) is not None
    assert dir(mechguard) == sorted(mechguard.__all__)
    tree = ast.parse(HOME.read_text("utf-8"))
    typed = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert typed | {"__version__"} == set(mechguard.__all__)
    with pytest.raises(AttributeError, match="no attribute 'refusals'"):
        mechguard.refusals  # noqa: B018


def test_types_and_run_time_agree() -> None:
    """What mypy is told that a name is, and what it is, come from the same module."""
    tree = ast.parse(HOME.read_text("utf-8"))
    told = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    for name, (module, attribute) in told.items():
        there = f"{module}.{attribute}"
        assert mechguard._HOMES[name].replace(":", ".") == there


def test_it_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    found = _python("import mechguard", tmp_path, ROOT, "-X", "importtime")
    assert found.returncode == 0
    imported = [line.rpartition("|")[2].strip() for line in found.stderr.splitlines()]
    assert "mechguard" in imported
    assert not {"torch", "transformers", "pandas", "numpy"} & set(imported)


def test_the_version_is_that_of_the_package() -> None:
    assert mechguard.__version__ == version("mechguard")


@pytest.mark.parametrize("name", ["interp", "probes", "steering", "analyses"])
def test_a_module_that_hides_a_package_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("mine = True\n")
    found = subprocess.run(
        [sys.executable, "-m", "mechguard", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    sentence = f"{tmp_path / name}.py hides mechguard's package {name!r}"
    assert found.returncode == 2
    assert found.stderr.startswith(f"mechguard: {sentence}") and found.stderr.count("\n") == 1
    imported = _python("import mechguard", tmp_path)
    assert imported.stderr.splitlines()[-1].startswith(f"ImportError: {sentence}")


def test_a_file_of_another_name_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "my_probes.py").write_text("mine = True\n")
    found = _python("import mechguard; print(mechguard.InputError.exit_code)", tmp_path)
    assert found.stdout == "2\n", found.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel, unpacked outside of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, cwd=folder)
    (packed,) = folder.glob("*.whl")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_a_wheel_brings_all_it_needs(wheel: Path, tmp_path: Path) -> None:
    code = """
import mechguard as mg, interp, probes
from interp.data.prompt_sets import builtin
from probes.backdoors.self_report.questions import builtin_questions
print(interp.__file__)
print(len(builtin()) > 100, len(builtin_questions()) > 3)
print(mg.load("organism:chat"))
"""
    found = _python(code, tmp_path, wheel)
    assert found.returncode == 0, found.stderr
    first, second, *_ = found.stdout.splitlines()
    assert first.startswith(str(wheel)) and second == "True True"
    (tmp_path / "probes.py").write_text("")
    hidden = _python("import mechguard", tmp_path, wheel)
    assert f"{tmp_path / 'probes.py'} hides" in hidden.stderr
