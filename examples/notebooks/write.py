"""Writes `NAME.ipynb` from every `../NAME.py`: `make notebooks`.

The scripts are the source. Cells begin at `# %%`; those marked `[markdown]` are comments.
Notebooks have no outputs and the same cell ids every time, so that they change only with a script.
"""

import json
from pathlib import Path
from typing import Any

from interp.resume.files import write_atomically

HOME = Path(__file__).parent
SCRIPTS = sorted(HOME.parent.glob("*.py"))
MARKER, MARKDOWN = "# %%", "# %% [markdown]"


def notebook(script: Path) -> str:
    """The notebook of a script, as JSON (nbformat 4.5).

    Raises:
        ValueError: the script does not begin with a cell.
    """
    cells: list[tuple[str, list[str]]] = []
    for line in script.read_text(encoding="utf-8").splitlines():
        if line.startswith(MARKER):
            cells.append((line.rstrip(), []))
        elif cells:
            cells[-1][1].append(line)
        elif line.strip():
            raise ValueError(f"{script} begins with {line!r} instead of a cell; put {MARKER} first")
    content = {
        "cells": [_cell(f"{script.stem}-{n:02d}", *cell) for n, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(name: str, marker: str, lines: list[str]) -> dict[str, Any]:
    """One cell; `name` is its id."""
    text = "\n".join(lines).strip("\n")
    if marker == MARKDOWN:
        bare = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.split("\n"))
        return {"cell_type": "markdown", "id": name, "metadata": {}, "source": _source(bare)}
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": {},
        "outputs": [],
        "source": _source(text),
    }


def _source(text: str) -> list[str]:
    """Lines that keep their ends, as notebooks have them."""
    return text.splitlines(keepends=True)


def main() -> None:
    """Write all of them, and remove those whose script is gone."""
    for script in SCRIPTS:
        write_atomically(HOME / f"{script.stem}.ipynb", notebook(script).encode())
    for stale in set(HOME.glob("*.ipynb")) - {HOME / f"{script.stem}.ipynb" for script in SCRIPTS}:
        stale.unlink()


if __name__ == "__main__":
    main()
