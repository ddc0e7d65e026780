"""Published sets of prompts by name, from a local copy or from the hub; none is shipped.

Columns, configurations and splits are those of the sets' own pages. What a set's `label` and
`source` columns say is mapped to our words, so `read_prompts` alone would not do: StrongREJECT's
`source` is a person, and XSTest's `safe` prompts are there because they sound unsafe.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from interp.data.prompt_sets import Prompt, PromptSet, read_prompts
from interp.data.sources import csv_table, parquet_table
from interp.errors import InputError, first_line
from interp.reading import decoded, exists, json_lines, parse_json, read_bytes

log = logging.getLogger("mechguard.prompts")


@dataclass(frozen=True)
class Part:
    """A table of a set.

    Attributes:
        hub: its id there.
        config: of the hub's data set; None for its only one.
        split: of the hub's data set.
        file: the name of the file as published elsewhere.
        columns: the names that the column of prompts goes by, in the file and on the hub.
        labels: what column `by` says to our label; the empty text to the label of all without one.
        by: the column that decides the label, if one does.
        only: column to the value that rows must have to be kept, where they have the column.
        gated: the hub asks to accept terms first.
    """

    hub: str
    config: str | None
    split: str
    file: str
    columns: tuple[str, ...]
    labels: Mapping[str, str]
    by: str | None = None
    only: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    gated: bool = False


@dataclass(frozen=True)
class NamedSet:
    """A published set of prompts.

    Attributes:
        title: as its authors call it.
        parts: by name; a set of one table has one part, named "".
        size: prompts that are read, by label.
        licence: as its page says.
        citation: of the paper.
    """

    title: str
    parts: Mapping[str, Part]
    size: Mapping[str, int]
    licence: str
    citation: str


def _whole(label: str) -> Mapping[str, str]:
    return MappingProxyType({"": label})


_JAILBREAKBENCH = "JailbreakBench/JBB-Behaviors"
_OR_BENCH = "bench-llm/or-bench"

NAMED_SETS: Mapping[str, NamedSet] = MappingProxyType(
    {
        "advbench": NamedSet(
            "AdvBench, harmful behaviours",
            {
                "": Part(
                    "walledai/AdvBench", None, "train", "harmful_behaviors.csv",
                    ("goal", "prompt"), _whole("harmful"), gated=True,
                )
            },
            {"harmful": 520},
            "MIT",
            "Zou et al. 2023, arXiv:2307.15043",
        ),
        "harmbench": NamedSet(
            "HarmBench, standard behaviours (those on copyright, and those that need a context, are"
            " left out)",
            {
                "": Part(
                    "walledai/HarmBench", "standard", "train", "harmbench_behaviors_text_all.csv",
                    ("Behavior", "prompt"), _whole("harmful"),
                    only={"FunctionalCategory": "standard"}, gated=True,
                )
            },
            {"harmful": 200},
            "MIT",
            "Mazeika et al. 2024, arXiv:2402.04249",
        ),
        "jailbreakbench": NamedSet(
            "JailbreakBench, behaviours: harmful ones and benign ones of the same topics",
            {
                "harmful": Part(
                    _JAILBREAKBENCH, "behaviors", "harmful", "harmful-behaviors.csv",
                    ("Goal",), _whole("harmful"),
                ),
                "benign": Part(
                    _JAILBREAKBENCH, "behaviors", "benign", "benign-behaviors.csv",
                    ("Goal",), _whole("harmless"),
                ),
            },
            {"harmful": 100, "harmless": 100},
            "MIT",
            "Chao et al. 2024, arXiv:2404.01318",
        ),
        "strongreject": NamedSet(
            "StrongREJECT, forbidden prompts",
            {
                "": Part(
                    "walledai/StrongREJECT", None, "train", "strongreject_dataset.csv",
                    ("forbidden_prompt", "prompt"), _whole("harmful"), gated=True,
                )
            },
            {"harmful": 313},
            "MIT",
            "Souly et al. 2024, arXiv:2402.10260",
        ),
        "xstest": NamedSet(
            "XSTest: safe prompts that sound unsafe, and unsafe ones in contrast",
            {
                "": Part(
                    "Paul/XSTest", None, "train", "xstest_prompts.csv", ("prompt",),
                    {"safe": "alarming", "unsafe": "harmful"}, by="label",
                )
            },
            {"alarming": 250, "harmful": 200},
            "CC BY 4.0",
            "Röttger et al. 2024, arXiv:2308.01263",
        ),
        "or-bench": NamedSet(
            "OR-Bench: the hard thousand, which are often refused without need, and the toxic ones",
            {
                "hard": Part(
                    _OR_BENCH, "or-bench-hard-1k", "train", "or-bench-hard-1k.csv",
                    ("prompt",), _whole("alarming"),
                ),
                "toxic": Part(
                    _OR_BENCH, "or-bench-toxic", "train", "or-bench-toxic.csv",
                    ("prompt",), _whole("harmful"),
                ),
            },
            {"alarming": 1319, "harmful": 655},
            "CC BY 4.0",
            "Cui et al. 2024, arXiv:2405.20947",
        ),
        "alpaca": NamedSet(
            "Alpaca, instructions without an input",
            {
                "": Part(
                    "tatsu-lab/alpaca", None, "train", "alpaca_data.json",
                    ("instruction",), _whole("harmless"), only={"input": ""},
                )
            },
            {"harmless": 31323},
            "CC BY-NC 4.0 by its card on the hub; its repository has said ODC-By",
            "Taori et al. 2023, Stanford Alpaca",
        ),
    }
)  # fmt: skip


def names() -> tuple[str, ...]:
    """Every name that `named` knows, parts such as `jailbreakbench:benign` among them."""
    found = []
    for name, one in NAMED_SETS.items():
        found += [name, *(f"{name}:{part}" for part in one.parts if part)]
    return tuple(found)


def named(name: str, path: str | Path | None = None) -> PromptSet:
    """A published set of prompts; the `source` of all of them is the set's name.

    Args:
        name: of `names()`; NAME takes all parts of a set and NAME:PART one.
        path: of a local copy with the published columns (.csv, .json, .jsonl or .parquet). A set of
            several parts takes a folder that holds them under their published names. From the hub
            through the `datasets` library if None.

    Raises:
        InputError: there is no such name or file, columns are missing, or the hub gives nothing.
    """
    if name not in names():
        raise InputError(f"there is no set of prompts {name!r}; there are {', '.join(names())}.")
    base, _, wanted = name.partition(":")
    one = NAMED_SETS[base]
    parts = [part for key, part in one.parts.items() if not wanted or key == wanted]
    log.info("%s. Licence: %s. %s.", one.title, one.licence, one.citation)
    prompts: list[Prompt] = []
    for part in parts:
        where, table = _table(name, part, None if path is None else Path(path), len(parts))
        prompts += _prompts(table, part, base, where)
    return PromptSet(tuple(prompts))


def read_named_or_file(text: str, label: str | None) -> PromptSet:
    """Prompts as the command line names them.

    Args:
        text: NAME or NAME=PATH with a name of `names()`; else a file or data set of `read_prompts`.
        label: of prompts of a file that holds none. Named sets have labels of their own.

    Raises:
        InputError: as `named` and `read_prompts` do, and where NAME of NAME=PATH is not known.
    """
    name, equals, path = text.partition("=")
    if name in names():
        if equals and not path:
            raise InputError(f"{text!r} names no path; give {name}=PATH, or {name} for the hub.")
        return named(name, path or None)
    if equals and not exists(Path(text)):
        raise InputError(
            f"{text!r} is no file, and there is no set of prompts {name!r}; "
            f"there are {', '.join(names())}."
        )
    return read_prompts(text, label=label)


def _table(name: str, part: Part, path: Path | None, parts: int) -> tuple[str, pd.DataFrame]:
    """The rows of a part, and where they come from."""
    if path is None:
        return part.hub, _from_hub(name, part)
    file = path / part.file if path.is_dir() else path
    if parts > 1 and not path.is_dir() and exists(path):
        raise InputError(
            f"{name} has {parts} parts and {path} is one file; give the folder of both, or name "
            f"the part, as {', '.join(n for n in names() if n.startswith(f'{name}:'))}."
        )
    if not exists(file):
        raise InputError(f"{file} does not exist; {name} is published as {part.file}.")
    reader = _READERS.get(file.suffix)
    if reader is None:
        raise InputError(
            f"{file}: a local copy comes as {', '.join(_READERS)}, not {file.suffix!r}."
        )
    try:
        return str(file), reader(file)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{file} is not readable ({first_line(error)}).") from error


_READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = MappingProxyType(
    {
        ".csv": csv_table,
        ".json": lambda file: pd.DataFrame(_entries(parse_json(decoded(read_bytes(file))))),
        ".jsonl": lambda file: pd.DataFrame(
            _entries([entry for _, entry in json_lines(decoded(read_bytes(file)))])
        ),
        ".parquet": parquet_table,
    }
)


def _entries(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise ValueError("it is no list of objects with fields")
    return content


def _from_hub(name: str, part: Part) -> pd.DataFrame:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{name} comes from the hub through the `datasets` library: "
            f"pip install 'mechguard[datasets]', or give a local copy as {name}=PATH."
        ) from error
    try:
        loaded = datasets.load_dataset(part.hub, part.config, split=part.split)
        return pd.DataFrame(loaded.to_pandas())
    except Exception as error:
        # The hub client raises many types; for the user they all mean that there are no rows.
        terms = "accept its terms on the hub and log in there with a token, " if part.gated else ""
        raise InputError(
            f"{name} could not be loaded from the hub's {part.hub} ({first_line(error)}); "
            f"{terms}{'or ' if terms else ''}give a local copy as {name}=PATH."
        ) from error


def _prompts(table: pd.DataFrame, part: Part, source: str, where: str) -> list[Prompt]:
    column = next((one for one in part.columns if one in table), None)
    if column is None or (part.by is not None and part.by not in table):
        wanted = " or ".join(part.columns) + (f", and {part.by}" if part.by else "")
        raise InputError(
            f"{where} has the columns {', '.join(map(str, table.columns))}; "
            f"{source} is expected to have {wanted}."
        )
    for key, value in part.only.items():
        if key in table:
            table = table[table[key].fillna("") == value]
    kinds = [""] * len(table) if part.by is None else list(table[part.by])
    prompts = []
    for text, kind in zip(table[column], kinds, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where} has a row whose {column} is empty.")
        if kind not in part.labels:
            raise InputError(
                f"{where} has {kind!r} in the column {part.by}; {source} is expected to have "
                f"{' or '.join(part.labels)}."
            )
        said = {"role": "user", "content": text.strip()}  # some cells end in a blank or a newline
        prompts.append(Prompt((said,), part.labels[kind], source))
    if not prompts:
        raise InputError(f"{where} holds no prompt of {source}.")
    return prompts


def prompts_of(sources: Sequence[str], label: str) -> PromptSet:
    """Prompts of several files, data sets or published sets, all of one label.

    Raises:
        InputError: one of them is missing or malformed.
    """
    read = [prompt for source in sources for prompt in read_named_or_file(source, label)]
    return PromptSet(tuple(replace(prompt, label=label) for prompt in read))
