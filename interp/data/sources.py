"""Where documents and prompts are read from: files of rows, and data sets by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from interp.errors import InputError, first_line

if TYPE_CHECKING:
    import pandas as pd

Read = TypeVar("Read")
_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet", ".txt")


def csv_table(path: Path) -> "pd.DataFrame":
    """A table of strings; "NA" and empty cells stay the strings they are."""
    import pandas as pd

    return pd.read_csv(path, dtype=str, keep_default_na=False)


def json_lines(text: str) -> list[Any]:
    """The value of every line that is not blank.

    Not splitlines: JSON strings may hold U+2028 and its like as they are.
    """
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def from_data_set(source: str, read: Callable[[Any], Read], kind: str = "data set") -> Read:
    """Load a data set of the `datasets` library and read it.

    Args:
        source: NAME or NAME:SPLIT; the split is `train` unless named.
        read: makes of it what is wanted.
        kind: what it should have been, for the message.

    Raises:
        InputError: there is no such library, no such data set, or it cannot be read.
    """
    name, _, split = source.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{source} is no file, and data sets need the `datasets` library: "
            "pip install 'mechguard[datasets]'."
        ) from error
    try:
        return read(datasets.load_dataset(name, split=split or "train"))
    except Exception as error:
        # The hub client raises many types; for the user they all mean that the name gave no data.
        raise InputError(
            f"{source} is neither a file nor a {kind} that can be loaded ({first_line(error)})."
        ) from error


def read_table(name: str) -> "pd.DataFrame":
    """All columns of a file or data set of prompts, a row a prompt.

    Raises:
        InputError: it is missing or malformed.
    """
    path = Path(name)
    if not path.exists() and path.suffix not in _SUFFIXES:
        return from_data_set(name, lambda loaded: loaded.to_pandas())
    if not path.exists():
        raise InputError(f"{name} does not exist.")
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{name}: prompts come as {', '.join(_SUFFIXES)}, not {path.suffix!r}.")
    try:
        return _parsed(path)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{name} is not readable as {path.suffix} prompts ({first_line(error)})."
        ) from error


def _parsed(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if path.suffix == ".csv":
        return csv_table(path)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        return pd.DataFrame(json_lines(text))
    if path.suffix == ".json":
        return pd.DataFrame({"text": json.loads(text)})
    return pd.DataFrame({"text": [line for line in text.split("\n") if line.strip()]})
