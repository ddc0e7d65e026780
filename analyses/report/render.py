"""Writing a report to disk, and rebuilding its page from the JSON without the model."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.report.page import page
from interp.errors import InputError

FORMAT_VERSIONS = (1,)


def render(directory: Path) -> Path:
    """Rebuild `report.html` in `directory` from its `report.json`.

    Args:
        directory: what an earlier run was given as `--out`.

    Returns:
        The path of the page, which replaces an older one in a single step.

    Raises:
        InputError: `report.json` is missing, not readable as JSON, of an unknown format version
            or lacks what its kind needs.
    """
    directory = Path(directory)
    report = _load(directory / "report.json")
    try:
        html = page(report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{directory / 'report.json'} cannot be drawn ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): it was edited or is incomplete; run the analysis "
            "again to write it anew."
        ) from error
    _replace({"report.html": html}, directory)
    return directory / "report.html"


def write(report: dict[str, Any], tables: dict[str, pd.DataFrame], directory: Path) -> Path:
    """Write `report.json`, `report.html` and `tables/*.csv`, all of them or none.

    Every file is first written in full to a hidden folder inside `directory`; only when all are
    there do they take their places. Other files in `directory` are left alone.

    Args:
        report: as `page` takes it; NaN and infinities become null, numpy scalars plain numbers.
        tables: by file name without `.csv`.
        directory: made if absent.

    Returns:
        The path of the page.

    Raises:
        InputError: `directory` is a file, or cannot be written to.
    """
    report = plain(report)
    contents: dict[str, str | pd.DataFrame] = {
        f"tables/{name}.csv": frame for name, frame in tables.items()
    }
    contents["report.json"] = json.dumps(report, indent=1, allow_nan=False) + "\n"
    contents["report.html"] = page(report)
    _replace(contents, Path(directory))
    return Path(directory) / "report.html"


def plain(value: Any) -> Any:
    """`value` in the types of strict JSON.

    Dictionaries, lists, tuples and frames (as records) are walked through; numpy and pandas
    scalars become Python's; what is not a finite number becomes None.

    Raises:
        TypeError: something that has no JSON form.
    """
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


def _load(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"There is no {path}; give the folder that an analysis wrote with --out."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); it is damaged, so run the analysis again."
        ) from error
    if not isinstance(report, dict) or "kind" not in report:
        raise InputError(f"{path} is not a report: it has no field 'kind'.")
    if report.get("format_version") not in FORMAT_VERSIONS:
        raise InputError(
            f"{path} has format version {report.get('format_version')!r}; this version of "
            f"mechguard reads {', '.join(map(str, FORMAT_VERSIONS))}."
        )
    return report


def _replace(contents: dict[str, Any], directory: Path) -> None:
    """Write all of `contents` aside, then move each into place."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".report-", dir=directory))
    except OSError as error:
        raise InputError(f"{directory} cannot be written to: {error.strerror}.") from error
    try:
        for name, content in contents.items():
            _put(content, aside / name)
        for name in contents:
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(aside / name, target)
    except OSError as error:
        raise InputError(f"{directory} cannot be written to: {error.strerror}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pd.DataFrame):
        content.to_csv(path, index=False, encoding="utf-8", errors="backslashreplace")
    else:
        path.write_text(content, encoding="utf-8")
