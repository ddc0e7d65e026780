"""Where documents and prompts are read from: files of rows, and data sets by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from interp.errors import InputError, first_line

if TYPE_CHECKING:
    import pandas as pd

Read = TypeVar("Read")


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
