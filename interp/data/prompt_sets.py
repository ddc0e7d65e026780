"""Sets of prompts with labels and sources: read, split without leaks, and freed from confounds.

AdvBench ends in a letter 520 times of 520 and XSTest's safe prompts end in a question mark, so at
the last token of an instruction "harmful or harmless" is in part "with or without a mark".
`equalise` takes that away, and says how well such surface alone told the classes apart.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.checks import require_type
from interp.data.sources import csv_table, read_rows
from interp.errors import InputError
from interp.reading import parse_json
from interp.statistics.auroc import area

Message = Mapping[str, Any]
_COLUMNS = ("text", "prompt", "instruction", "goal", "forbidden_prompt", "behavior", "question")
_MARKS = " \t\n.,;:!?…\"'”’)"


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user's turn.

    Attributes:
        messages: `role` and `content`, for a chat template.
        label: of its class, such as `harmful`, `harmless` or `alarming`.
        source: where it comes from; what is trained on one source is tested on another.
        group: equal for prompts that are not independent, such as those of one wording; or None.
    """

    messages: tuple[Message, ...]
    label: str
    source: str
    group: str | None = field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """What the user says last."""
        return str(self.messages[-1]["content"])


@dataclass(frozen=True)
class PromptSet:
    """Prompts in order.

    Raises:
        InputError: what was given is no tuple of prompts.
    """

    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        how = "read a file with mechguard.read_prompts(path, label)"
        require_type(self.prompts, tuple, "prompts", how)
        for prompt in self.prompts:
            require_type(prompt, Prompt, "a prompt of the set", how)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def __add__(self, other: "PromptSet") -> "PromptSet":
        return PromptSet(self.prompts + other.prompts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, in order of appearance."""
        return tuple(dict.fromkeys(prompt.label for prompt in self.prompts))

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source, in order of appearance."""
        return tuple(dict.fromkeys(prompt.source for prompt in self.prompts))

    def where(self, test: Callable[[Prompt], bool]) -> "PromptSet":
        """Those that pass a test."""
        return PromptSet(tuple(prompt for prompt in self.prompts if test(prompt)))

    def of(self, *labels: str) -> "PromptSet":
        """Those of some labels.

        Raises:
            InputError: there are none of one of them.
        """
        for label in labels:
            if label not in self.labels:
                raise InputError(
                    f"there are no {label!r} prompts; there are {', '.join(self.labels) or 'none'}."
                )
        return self.where(lambda prompt: prompt.label in labels)

    def frame(self) -> pd.DataFrame:
        """A row a prompt: label, source, text, words, and the last character."""
        return pd.DataFrame(
            {
                "label": [p.label for p in self.prompts],
                "source": [p.source for p in self.prompts],
                "text": [p.text for p in self.prompts],
                "words": [len(p.text.split()) for p in self.prompts],
                "last": [p.text.rstrip()[-1:] for p in self.prompts],
            }
        )

    @property
    def sha256(self) -> str:
        """Of all messages, labels and sources in order."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            entry = [prompt.label, prompt.source, [dict(m) for m in prompt.messages]]
            digest.update(json.dumps(entry, sort_keys=True).encode())
        return digest.hexdigest()


def builtin() -> PromptSet:
    """Our own prompts: harmful but mild, harmless ones matched to them, and alarming ones.

    `harmful` and `harmless` are pairs of the same opening and, within two words, the same length;
    none ends in a mark. `alarming` ones are harmless and sound otherwise. CC0.
    """
    with as_file(files("interp.data") / "prompts.csv") as path:
        table = csv_table(path)
    return PromptSet(
        tuple(
            Prompt(({"role": "user", "content": text},), label, "mechguard")
            for text, label in zip(table["text"], table["label"], strict=True)
        )
    )


def read_prompts(
    path: str | Path,
    label: str | None = None,
    *,
    source: str | None = None,
    relabel: Mapping[str, str] | None = None,
) -> PromptSet:
    """Read prompts from a file or a data set of the `datasets` library.

    `.csv`, `.parquet` and `.jsonl` hold a column `messages`, or a text under one of the usual names
    (text, prompt, instruction, goal, forbidden_prompt, behavior, question), and may hold `label`,
    `source` and `group`; `.json` is a list of strings, `.txt` a prompt a line. Anything else is
    taken for the name of a data set, NAME or NAME:SPLIT.

    Args:
        path: of the file, or name of the data set.
        label: of all of them, where the file holds none.
        source: of all of them, where the file holds none; the file's name if None.
        relabel: labels of the file to ours, such as XSTest's {"safe": "alarming"}.

    Raises:
        InputError: the file is missing, empty, malformed, or labels are missing.
    """
    name = str(path)
    read = read_rows(name)
    table = read.frame
    if table.empty:
        raise InputError(f"{name} holds no prompt.")
    messages = _messages(table, name, read.places)
    labels = [label] * len(table)
    if "label" in table:  # a null says nothing
        labels = [label if _is_null(one) else one for one in table["label"]]
    sources = table["source"] if "source" in table else [source or Path(name).stem] * len(table)
    groups: Any = [None] * len(table)
    if "group" in table:  # an empty cell says nothing
        groups = table["group"].map(str, na_action="ignore").astype(object).fillna("")
    if any(one is None or str(one).strip() == "" for one in labels):
        raise InputError(
            f"{name} has prompts without a label; give a column `label`, or one label for all."
        )
    known = relabel or {}
    return PromptSet(
        tuple(
            Prompt(said, known.get(str(one), str(one)), str(origin), group=group or None)
            for said, one, origin, group in zip(messages, labels, sources, groups, strict=True)
        )
    )


def without_duplicates(*sets: PromptSet) -> tuple[PromptSet, ...]:
    """Drop from every set what stands in it or in an earlier one already.

    Case, marks and white space do not make a difference.
    """
    seen: set[str] = set()
    kept = []
    for some in sets:
        fresh = []
        for prompt in some:
            key = " ".join(re.findall(r"\w+", prompt.text.casefold()))
            if key not in seen:
                seen.add(key)
                fresh.append(prompt)
        kept.append(PromptSet(tuple(fresh)))
    return tuple(kept)


def split_by_source(prompts: PromptSet, test: Sequence[str]) -> tuple[PromptSet, PromptSet]:
    """Train and test prompts that share neither a source nor a text.

    Args:
        prompts: to be parted.
        test: sources of the test side.

    Raises:
        InputError: there is no such source, or a side lacks a label that the other has.
    """
    unknown = [name for name in test if name not in prompts.sources]
    if unknown:
        raise InputError(
            f"there is no source {', '.join(unknown)}; there are {', '.join(prompts.sources)}."
        )
    held, rest = without_duplicates(
        prompts.where(lambda p: p.source in test), prompts.where(lambda p: p.source not in test)
    )
    if set(held.labels) != set(rest.labels):
        raise InputError(
            f"the test sources hold {', '.join(held.labels)} and the others "
            f"{', '.join(rest.labels) or 'nothing'}; each side needs a source of every label."
        )
    return rest, held


def split_at_random(
    prompts: PromptSet, shares: Sequence[float], seed: int = 0
) -> tuple[PromptSet, ...]:
    """Parts of one set with the same mixture of labels and sources, without a text in two of them.

    Nor do two parts share a group; where prompts have groups, the shares are approximate.

    Args:
        prompts: to be parted.
        shares: of the parts; they sum to 1.
        seed: of the shuffling.

    Raises:
        InputError: the shares do not sum to 1.
    """
    if abs(sum(shares) - 1) > 1e-9 or min(shares) <= 0:
        raise InputError(f"shares {list(shares)} must be positive and sum to 1.")
    (fresh,) = without_duplicates(prompts)
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    alike: dict[tuple[str, str], list[list[int]]] = {}
    for i, prompt in enumerate(fresh):
        if prompt.group is None:
            alike.setdefault((prompt.label, prompt.source), []).append([i])
        else:
            members.setdefault(prompt.group, []).append(i)
    parts: list[list[int]] = [[] for _ in shares]
    for units in (*alike.values(), list(members.values())):
        order = rng.permutation(len(units))
        borders = [0, *np.round(np.cumsum(shares) * len(units)).astype(int)]
        for part, low, high in zip(parts, borders[:-1], borders[1:], strict=True):
            part += [i for unit in order[low:high].tolist() for i in units[unit]]
    return tuple(PromptSet(tuple(fresh.prompts[i] for i in sorted(part))) for part in parts)


@dataclass(frozen=True)
class Equalised:
    """Two classes whose surface no longer tells them apart, and what it told before.

    Attributes:
        prompts: what is left, in the old order.
        dropped: label to the number of prompts without a match in length.
        length_auroc: how well the number of words told the classes, before and after; the better
            of longer and shorter.
        mark_auroc: the same of ending in a mark.
    """

    prompts: PromptSet
    dropped: dict[str, int]
    length_auroc: tuple[float, float]
    mark_auroc: tuple[float, float]


def equalise(
    prompts: PromptSet,
    positive: str = "harmful",
    negative: str = "harmless",
    *,
    final_punctuation: bool = True,
    length: bool = True,
) -> Equalised:
    """Take surface differences away from two classes.

    Args:
        prompts: of both classes; others are left as they are.
        positive: label of the one.
        negative: label of the other.
        final_punctuation: strip marks from the end of every user's turn.
        length: of every number of words keep as many prompts of the one class as of the other, the
            first ones.

    Raises:
        InputError: a class is empty, or the classes share no length.
    """
    prompts.of(positive, negative)
    before = _told(prompts, positive, negative)
    kept = PromptSet(tuple(map(_stripped, prompts))) if final_punctuation else prompts
    dropped = {positive: 0, negative: 0}
    if length:
        keep = _matched(kept, positive, negative)
        for label in dropped:
            dropped[label] = sum(
                prompt.label == label and i not in keep for i, prompt in enumerate(kept)
            )
        kept = PromptSet(tuple(prompt for i, prompt in enumerate(kept) if i in keep))
        if positive not in kept.labels:
            raise InputError(
                f"no {positive} prompt has as many words as a {negative} one; give prompts of like "
                "lengths, or switch the matching of lengths off."
            )
    after = _told(kept, positive, negative)
    return Equalised(kept, dropped, (before[0], after[0]), (before[1], after[1]))


def _told(prompts: PromptSet, positive: str, negative: str) -> tuple[float, float]:
    """AUROC of the number of words, and of ending in a mark, each with the sign that suits it."""
    table = prompts.frame()
    values = []
    for column in (table["words"], ~table["last"].str.isalnum()):
        one = column[table["label"] == positive].to_numpy(float)
        other = column[table["label"] == negative].to_numpy(float)
        told = area(one, other)
        values.append(max(told, 1 - told))
    return values[0], values[1]


def _stripped(prompt: Prompt) -> Prompt:
    *before, last = prompt.messages
    bare = prompt.text.rstrip(_MARKS)
    content = bare or prompt.text  # a prompt of marks alone stays what it is
    return replace(prompt, messages=(*before, {**last, "content": content}))


def _matched(prompts: PromptSet, positive: str, negative: str) -> set[int]:
    """Indices to keep: of every number of words as many of the one class as of the other."""
    sides: dict[str, dict[int, list[int]]] = {positive: {}, negative: {}}
    keep = set()
    for i, prompt in enumerate(prompts):
        if prompt.label in sides:
            sides[prompt.label].setdefault(len(prompt.text.split()), []).append(i)
        else:
            keep.add(i)
    for words, ones in sides[positive].items():
        others = sides[negative].get(words, [])
        both = min(len(ones), len(others))
        keep |= {*ones[:both], *others[:both]}
    return keep


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _messages(table: pd.DataFrame, name: str, places: Sequence[str]) -> list[tuple[Message, ...]]:
    said: list[tuple[Message, ...]]
    if "messages" in table:
        said = [
            _conversation(some, f"{place} of {name}")
            for some, place in zip(table["messages"], places, strict=True)
        ]
    else:
        lower = {str(column).lower(): column for column in table.columns}
        column = next((lower[one] for one in _COLUMNS if one in lower), None)
        if column is None:
            raise InputError(
                f"{name} has the columns {', '.join(map(str, table.columns))}; it needs `messages` "
                f"or one of {', '.join(_COLUMNS)}."
            )
        # White space at an end is no part of a request, and templates differ in keeping it.
        said = [
            ({"role": "user", "content": text.strip() if isinstance(text, str) else text},)
            for text in table[column]
        ]
    for messages, place in zip(said, places, strict=True):
        last = messages[-1] if messages else {}
        content = last.get("content")
        if last.get("role") != "user" or not isinstance(content, str) or not content.strip():
            raise InputError(f"{place} of {name} does not end with words of the user.")
        if not all(_is_unicode(message.get("content")) for message in messages):
            raise InputError(f"{place} of {name} holds half a surrogate pair; give valid Unicode.")
    return said


def _conversation(given: Any, where: str) -> tuple[Message, ...]:
    """The messages of a cell: a list of them, one by itself, or either as JSON text."""
    if isinstance(given, str):
        try:
            given = parse_json(given)
        except ValueError as error:
            raise InputError(
                f"{where} has `messages` that are no JSON; give a list of objects with role and "
                "content."
            ) from error
    if isinstance(given, np.ndarray):  # as parquet files give them
        given = given.tolist()
    some = [given] if isinstance(given, Mapping) else given
    if not isinstance(some, list | tuple) or not all(
        isinstance(one, Mapping) and {"role", "content"} <= set(one) for one in some
    ):
        raise InputError(
            f"{where} has `messages` that are no list of objects with role and content."
        )
    return tuple(dict(one) for one in some)


def _is_unicode(content: Any) -> bool:
    try:
        str(content).encode()
    except UnicodeEncodeError:
        return False
    return True
