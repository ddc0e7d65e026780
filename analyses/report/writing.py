"""Writing a report to disk: page, JSON and tables, all of them or none."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.report.folder import require_same_run
from analyses.report.page import page
from analyses.report.panel import Drawings
from interp.errors import InputError

Tables = Mapping[str, Mapping[str, pd.DataFrame]]
"""Tables by section and name."""


def write(
    report: dict[str, Any],
    tables: Tables,
    drawings: Drawings,
    directory: Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write `report.json`, `report.html` and `tables/SECTION/NAME.csv`, all of them or none.

    Every file is first written in full to a hidden folder inside `directory`; only when all are
    there do they take their places. `tables/` then holds exactly these tables, without those that
    have no row; other files in `directory` are left alone. A column that holds intervals becomes
    two numeric ones, `_low` and `_high`.

    Args:
        report: as `page` takes it; NaN and infinities become null, numpy scalars plain numbers.
        tables: by section and name.
        drawings: how the kinds of findings are shown.
        directory: made if absent.
        overwrite: replace the report of another run.

    Returns:
        The path of the page.

    Raises:
        InputError: `directory` is a file, cannot be written to, or holds another run's report.
    """
    directory = Path(directory)
    report = plain(report)
    if not overwrite:
        require_same_run(directory, report)
    contents: dict[str, str | pd.DataFrame] = {
        f"tables/{section}/{name}.csv": with_bounds(frame)
        for section, frames in tables.items()
        for name, frame in frames.items()
        if len(frame)
    }
    contents["report.json"] = json.dumps(report, indent=1, allow_nan=False) + "\n"
    contents["report.html"] = page(report, drawings)
    replace(contents, directory)
    return directory / "report.html"


def plain(value: Any) -> Any:
    """`value` in the types of strict JSON.

    Dataclasses, dictionaries, lists, tuples and frames (as records) are walked through; numpy and
    pandas scalars become Python's; what is not a finite number becomes None.

    Raises:
        TypeError: something that has no JSON form.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return plain(value.to_dict(orient="records"))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, Path | pd.Timestamp):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def with_bounds(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with every column of intervals as two columns of numbers.

    `x_interval` becomes `x_low` and `x_high`, and `interval` becomes `low` and `high`.
    """
    columns: dict[str, Any] = {}
    for name in frame.columns:
        values = list(frame[name])
        if not any(_is_pair(value) for value in values):
            columns[str(name)] = frame[name]
            continue
        stem = str(name).removesuffix("interval")
        stem = stem if stem in ("", str(name)) or stem.endswith("_") else f"{stem}_"
        stem = f"{stem}_" if stem == str(name) else stem
        for place, end in enumerate(("low", "high")):
            ends = [value[place] if _is_pair(value) else math.nan for value in values]
            columns[f"{stem}{end}"] = pd.Series(ends, index=frame.index, dtype=float)
    return pd.DataFrame(columns, index=frame.index)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(end, int | float) and not isinstance(end, bool) for end in value)
    )


def replace(contents: Mapping[str, str | pd.DataFrame], directory: Path) -> None:
    """Write all of `contents` aside, then move each into place.

    A `tables` folder among them takes the place of the old one as a whole.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".report-", dir=directory))
    except OSError as error:
        raise _unwritten(directory, error) from error
    old, before = directory / "tables", aside / ".tables-before"
    placed: list[str] = []
    try:
        for name, content in contents.items():
            _put(content, aside / name)
        if "report.json" in contents and old.is_dir():
            os.replace(old, before)
        for name in dict.fromkeys(name.partition("/")[0] for name in contents):
            os.replace(aside / name, directory / name)
            placed.append(name)
    except OSError as error:
        if before.exists() and "tables" not in placed:
            os.replace(before, old)
        raise _unwritten(directory, error, placed) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unwritten(directory: Path, error: OSError, placed: Sequence[str] = ()) -> InputError:
    """What is lost and what is kept where a report could not be written."""
    left = "no file of the report was put there, and what the folder held before is unchanged"
    if placed:
        left = f"of the report only {', '.join(placed)} is new there"
    return InputError(
        f"{directory} cannot be written to: {error.strerror or error}; {left}; make room, or name "
        "another folder with --out, and run again."
    )


def _put(content: str | pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pd.DataFrame):
        content.to_csv(path, index=False, encoding="utf-8", errors="backslashreplace")
    else:
        path.write_text(content, encoding="utf-8")
