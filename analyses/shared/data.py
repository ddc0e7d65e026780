"""Data as users give it: files, named sets, prompt sets or texts.

Every analysis takes `data` in these forms. Without any, an organism's own are used, or the
built-in prompts.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp import organisms
from interp.data.named_sets import names, prompts_of, read_named_or_file
from interp.data.prompt_sets import Prompt, PromptSet, builtin
from interp.data.rows import Texts, as_texts, read_texts
from interp.errors import InputError

Source = str | Path
PromptData = (
    PromptSet | Source | Sequence[PromptSet | Source] | Mapping[str, "PromptData | None"] | None
)
"""Prompts with labels, files of such, or either of them by label."""
TextData = Texts | Source | Sequence[Texts | Source] | Mapping[str, Sequence[str]] | None
"""Files, documents, or documents by domain."""

_TEXT_FORMS = "paths of text files, documents as strings, or a mapping of domain to documents"
_FORMS = "a PromptSet, the path of a file, the name of a published set, or a list of these"


def organism_of(model: str) -> str | None:
    """The name of an organism that a checkpoint was loaded as; None for any other."""
    return model.removeprefix("organism:") if model.startswith("organism:") else None


def labelled(data: PromptData, labels: Sequence[str]) -> dict[str, PromptSet]:
    """Prompts by label, in the order of `labels`, without those that nobody gave.

    Args:
        data: prompts that bring their labels (sets, files with a column `label`, published sets),
            or a mapping of label to prompts, whose label then counts.
        labels: that an analysis takes.

    Raises:
        InputError: something that holds no prompts, a file that cannot be read, or a label that
            the analysis does not take.
    """
    if data is None:
        return {}
    if isinstance(data, Mapping):
        unknown = [label for label in data if label not in labels]
        if unknown:
            raise InputError(f"there are no {unknown[0]!r} prompts here; give {_listed(labels)}.")
        found = {label: _of_one_label(data[label], label) for label in labels if data.get(label)}
        return {label: some for label, some in found.items() if len(some)}
    given = _read(data)
    own = [label for label in labels if label in given.labels]
    if not own:
        raise InputError(
            f"the prompts have the labels {_listed(given.labels)}, and {_listed(labels)} are "
            "measured; give a mapping of label to prompts."
        )
    return {label: given.of(label) for label in own}


def with_builtin(given: Mapping[str, PromptSet], *labels: str) -> dict[str, PromptSet]:
    """The prompts that were given, and the built-in ones of labels that nobody gave."""
    own = builtin()
    return {**given, **{label: own.of(label) for label in labels if label not in given}}


def domains_of(data: TextData, model: str) -> list[Texts]:
    """Texts by domain: what was given, or an organism's own.

    Args:
        data: files (each a domain; the name of a data set counts as one), documents, or documents
            by domain. A string that looks like a path is one, whether or not it exists.
        model: name of the checkpoint.

    Raises:
        InputError: a file that cannot be read, or no texts and no organism.
    """
    if data is None:
        organism = organism_of(model)
        if organism is None:
            raise InputError(
                f"{model} needs --texts FILE (`data` in Python): only organisms bring texts of "
                "their own (try `mechguard report --out DIR` for one)."
            )
        data = organisms.texts(organism)
    return _distinct(_domains(data))


def looks_like_path(text: str) -> bool:
    """Whether a string names a file rather than being a text.

    One that exists does, and so does one in a single word that has a file's suffix or a separator.
    """
    if len(text) > 4096 or "\n" in text:
        return False
    path = Path(text)
    single = " " not in text.strip()
    try:
        return path.is_file() or (single and (bool(path.suffix[1:].isalnum()) or "/" in text))
    except OSError:
        return False


def _domains(data: Any) -> list[Texts]:
    if isinstance(data, Mapping):
        for name, given in data.items():
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise InputError(
                    f"the documents of {name!r} are a {type(given).__name__}; give a list of "
                    "strings."
                )
        return [as_texts(name, given) for name, given in data.items()]
    if not isinstance(data, Texts | str | Path | Iterable):
        raise InputError(f"data is a {type(data).__name__}; give {_TEXT_FORMS}.")
    items = [data] if isinstance(data, Texts | str | Path) else list(data)
    for one in items:
        if not isinstance(one, Texts | str | Path):
            raise InputError(f"data holds a {type(one).__name__}; give {_TEXT_FORMS}.")
    found: list[Texts] = []
    documents: list[str] = []
    for one in items:
        if isinstance(one, Texts):
            found.append(one)
        elif isinstance(one, Path) or looks_like_path(one):
            found.append(_file(one))
        else:
            documents.append(one)
    return [*found, as_texts("texts", documents)] if documents or not items else found


def _file(path: Source) -> Texts:
    if not Path(path).exists():
        raise InputError(
            f"{path} does not exist; give the path of a text file, or documents as strings."
        )
    return read_texts(path)


def _distinct(domains: list[Texts]) -> list[Texts]:
    """Two files of one name stay two domains."""
    seen: dict[str, int] = {}
    named = []
    for texts in domains:
        seen[texts.name] = seen.get(texts.name, 0) + 1
        number = seen[texts.name]
        name = texts.name if number == 1 else f"{texts.name} ({number})"
        named.append(Texts(name, texts.sha256, texts.documents))
    return named


def _of_one_label(data: Any, label: str) -> PromptSet:
    """Prompts of any form, all under one label."""
    if isinstance(data, PromptSet):
        return PromptSet(tuple(_with_label(prompt, label) for prompt in data))
    if isinstance(data, str | Path):
        return prompts_of([_existing(data)], label)
    if not isinstance(data, Sequence):
        raise InputError(f"{label!r} prompts are a {type(data).__name__}; give {_FORMS}.")
    found = PromptSet(())
    for one in data:
        found += _of_one_label(one, label)
    return found


def _with_label(prompt: Prompt, label: str) -> Prompt:
    from dataclasses import replace

    return prompt if prompt.label == label else replace(prompt, label=label)


def _read(data: Any) -> PromptSet:
    """Prompts that bring their own labels."""
    if isinstance(data, PromptSet):
        return data
    if isinstance(data, str | Path):
        return read_named_or_file(_existing(data), None)
    if not isinstance(data, Sequence):
        raise InputError(f"data is a {type(data).__name__}; give {_FORMS}.")
    found = PromptSet(())
    for one in data:
        found += _read(one)
    return found


def _existing(source: Source) -> str:
    """A source that is no published set must exist if it looks like a path.

    Raises:
        InputError: it does not.
    """
    text = str(source)
    name = text.partition("=")[0]
    if name not in names() and looks_like_path(text) and not Path(text).exists():
        raise InputError(f"{text} does not exist; give the path of a file of prompts.")
    return text


def _listed(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words)
