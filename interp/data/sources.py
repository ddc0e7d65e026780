"""Where documents and prompts are read from: files of rows, and data sets by name."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from interp.errors import InputError, first_line
from interp.reading import decoded, exists, json_lines, parse_json, read_bytes, require_file

if TYPE_CHECKING:
    import pandas as pd

Read = TypeVar("Read")
_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet", ".txt")


@dataclass(frozen=True)
class Table:
    """Rows of a file, and where each of them begins.

    Attributes:
        frame: all columns.
        places: of each row, such as `line 3`; `entry 3` where the file has no lines of its own.
    """

    frame: "pd.DataFrame"
    places: tuple[str, ...]


def csv_table(path: Path) -> "pd.DataFrame":
    """A table of strings; "NA" and empty cells stay the strings they are.

    Raises:
        InputError: it is missing, or no regular file.
        ValueError: it is no CSV, or a row has more cells than there are columns; with the line.
    """
    return _csv(path).frame


def _csv(path: Path) -> Table:
    import pandas as pd

    reader = csv.reader(io.StringIO(decoded(read_bytes(path)), newline=""), strict=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    places: list[str] = []
    begin = 1
    whole = csv.field_size_limit(2**31 - 1)  # a document may be longer than the default
    try:
        for cells in reader:
            if header is None and cells:
                header = cells
            elif header is not None and cells:
                if len(cells) > len(header):
                    raise ValueError(
                        f"line {begin} has {len(cells)} cells and there are {len(header)} columns; "
                        "put a text that holds a comma between double quotes"
                    )
                rows.append([*cells, *[""] * (len(header) - len(cells))])
                places.append(f"line {begin}")
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"the record that begins in line {begin}: {error}") from error
    finally:
        csv.field_size_limit(whole)
    if header is None:
        raise ValueError("it has no line with the names of columns")
    if len(set(header)) < len(header):
        raise ValueError(f"two columns have the same name: {', '.join(header)}")
    return Table(pd.DataFrame(rows, columns=header, dtype=object), tuple(places))


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
    return read_rows(name).frame


def read_rows(name: str) -> Table:
    """All columns of a file or data set of prompts, and where each row stands.

    Raises:
        InputError: it is missing or malformed.
    """
    path = Path(name)
    if not exists(path) and path.suffix not in _SUFFIXES:
        return _numbered(from_data_set(name, lambda loaded: loaded.to_pandas()))
    if not exists(path):
        raise InputError(f"{name} does not exist.")
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{name}: prompts come as {', '.join(_SUFFIXES)}, not {path.suffix!r}.")
    try:
        return _parsed(path)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{name} is not readable as {path.suffix} prompts ({first_line(error)})."
        ) from error


def _parsed(path: Path) -> Table:
    import pandas as pd

    if path.suffix == ".csv":
        return _csv(path)
    if path.suffix == ".parquet":
        return _numbered(parquet_table(path))
    text = decoded(read_bytes(path))
    if path.suffix == ".json":
        return _numbered(pd.DataFrame({"text": _listed(parse_json(text))}))
    if path.suffix == ".jsonl":
        numbered: Sequence[tuple[int, Any]] = json_lines(text)
        for number, entry in numbered:
            if not isinstance(entry, dict):
                raise ValueError(f"line {number} holds no object with fields")
        frame = pd.DataFrame([entry for _, entry in numbered])
    else:
        numbered = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        frame = pd.DataFrame({"text": [line for _, line in numbered]})
    return Table(frame, tuple(f"line {number}" for number, _ in numbered))


def parquet_table(path: Path) -> "pd.DataFrame":
    """All columns of a parquet file.

    Raises:
        InputError: it is missing, or no regular file.
        ValueError: it is no parquet file.
    """
    import pandas as pd
    from pyarrow import ArrowException

    require_file(path)
    try:
        found = pd.read_parquet(path)
        for name in found:
            found[name].tolist()  # strings are decoded when they are read, and may be broken
        return found
    except (ArrowException, UnicodeDecodeError) as error:
        raise ValueError(first_line(error)) from error


def _listed(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise ValueError("the top level is no list")
    return content


def _numbered(frame: "pd.DataFrame") -> Table:
    return Table(frame, tuple(f"entry {number}" for number in range(1, len(frame) + 1)))
