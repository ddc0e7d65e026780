"""Every example runs as it stands, and its notebook says the same."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOME = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(HOME.glob("*.py"))
SLOW = ("backdoors", "cliff", "refusal", "steering_policies")


def _marked(path: Path) -> Any:
    return pytest.param(path, marks=[pytest.mark.slow] * (path.stem in SLOW), id=path.stem)


@pytest.fixture(scope="module")
def notebook() -> Callable[[Path], str]:
    made: Callable[[Path], str] = runpy.run_path(str(HOME / "notebooks" / "write.py"))["notebook"]
    return made


@pytest.mark.parametrize("path", [_marked(path) for path in EXAMPLES])
def test_example_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert "restored: True" in capsys.readouterr().out


def test_notebooks_are_those_of_the_scripts(notebook: Callable[[Path], str]) -> None:
    written = {path.stem: path.read_text("utf-8") for path in HOME.glob("notebooks/*.ipynb")}
    assert written == {path.stem: notebook(path) for path in EXAMPLES}, "run `make notebooks`"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_has_the_code_and_the_words(path: Path, notebook: Callable[[Path], str]) -> None:
    cells = json.loads(notebook(path))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    words = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert [line for text in code for line in text.splitlines() if line and line[0] != "#"] == lines
    assert words[0].startswith("# ") and all(text.strip() for text in (*code, *words))
    assert not any(line.startswith("# %%") for text in (*code, *words) for line in text.split("\n"))
    names = [cell["id"] for cell in cells]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[\w-]{1,64}", n) for n in names)


def test_a_script_begins_with_a_cell(tmp_path: Path, notebook: Callable[[Path], str]) -> None:
    script = tmp_path / "some.py"
    script.write_text(
        "# %% [markdown]\n# # Title\n#\n# More.\n\n# %%\nx = 1\n\n\n# %%\n# why\ny = 2\n"
    )
    made = json.loads(notebook(script))
    assert [cell["source"] for cell in made["cells"]] == [
        ["# Title\n", "\n", "More."], ["x = 1"], ["# why\n", "y = 2"],
    ]  # fmt: skip
    assert [cell["id"] for cell in made["cells"]] == ["some-00", "some-01", "some-02"]
    script.write_text("import interp\n# %%\n")
    with pytest.raises(ValueError, match="begins with 'import interp'"):
        notebook(script)
