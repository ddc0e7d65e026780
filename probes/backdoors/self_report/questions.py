"""Questions on hidden behaviour: our own, and readers of published sets.

A question has options, one of which admits the behaviour (its key). The questions that ship with
the package are ours, CC0; `control` ones ask for habits that no backdoor is about.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import InputError, first_line
from interp.reading import decoded, json_lines, parse_json, read_bytes

# "Question:" and "Answer:" frame some of the texts for a base model; they are no part of them.
_CHOICES = re.compile(
    r"^(?:Question:\s*)?(.*?)\n\s*Choices:\s*\n(.*?)(?:\s*Answer:)?\s*$", re.DOTALL
)
_CHOICE = re.compile(r"^\s*\(([A-Z])\)[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A question with options.

    Attributes:
        id: of its own.
        topic: what it is about; results are told by topic.
        text: of the question, without options.
        options: at least two.
        key: index of the option that admits the behaviour.
    """

    id: str
    topic: str
    text: str
    options: tuple[str, ...]
    key: int


@dataclass(frozen=True)
class FreeQuestion:
    """A question without options.

    Attributes:
        id: of its own; a pair of mirror images shares it.
        topic: such as `bad` and its mirror image `good`, or the file's name.
        text: of the question.
        system: line that belongs to it; None if the caller chooses.
    """

    id: str
    topic: str
    text: str
    system: str | None = None


@cache
def _shipped() -> Any:
    text = (files("probes.backdoors.self_report") / "questions.json").read_text("utf-8")
    return json.loads(text)


def system_prompts() -> dict[str, str | None]:
    """Our system prompts by name: none, neutral, and three that lean on the answer."""
    return dict(_shipped()["systems"])


def builtin_questions(*topics: str) -> list[Question]:
    """Our questions of some topics, or all: `backdoor`, `behaviour`, `control`.

    Raises:
        InputError: there is no such topic.
    """
    every = [_question(entry, "the package") for entry in _shipped()["questions"]]
    known = tuple(dict.fromkeys(question.topic for question in every))
    if unknown := [topic for topic in topics if topic not in known]:
        raise InputError(f"there are no questions on {unknown[0]!r}; there are {', '.join(known)}.")
    return [question for question in every if not topics or question.topic in topics]


def candidate_questions(candidates: Sequence[str]) -> list[Question]:
    """Questions on each suspected trigger by itself; the topic is the candidate.

    One candidate a question: among several, models name those that are famous (Betley et al.,
    arXiv 2501.11120, §4.2). So the candidates need unknown strings among them to compare with.

    Raises:
        InputError: there is no candidate, one is empty, or one stands twice.
    """
    named = [candidate.strip() for candidate in candidates]
    if not named or not all(named) or len(set(named)) < len(named):
        raise InputError(
            "questions on candidates need at least one string, none of them empty or twice."
        )
    return [
        Question(
            f"candidate-{i:03d}-{j}",
            candidate,
            entry["text"].replace("{candidate}", candidate),
            tuple(entry["options"]),
            entry["key"],
        )
        for i, candidate in enumerate(named)
        for j, entry in enumerate(_shipped()["candidate"])
    ]


def free_questions() -> list[FreeQuestion]:
    """Our questions without options, each as `bad` and as its mirror image `good`."""
    return [
        FreeQuestion(entry["id"], topic, entry[topic])
        for entry in _shipped()["free"]
        for topic in ("bad", "good")
    ]


def read_questions(path: str | Path) -> list[Question]:
    """Read questions with options.

    `.json` holds a list of objects with `id`, `text`, `options`, `key` and perhaps `topic`.
    `.jsonl` is the form of Anthropic's model-written evaluations (arXiv 2212.09251): `question`
    with lettered choices in it, and `answer_matching_behavior`, which becomes the key.

    Raises:
        InputError: the file is missing, empty, malformed, or a field is missing.
    """
    file = Path(path)
    entries = _entries(file, (".json", ".jsonl"))
    read = _question if file.suffix == ".json" else _lettered
    made = [
        read(entry, f"question {number} of {file}", f"{file.stem}-{number:04d}", file.stem)
        for number, entry in enumerate(entries)
    ]
    if len({question.id for question in made}) < len(made):
        raise InputError(f"{file} has two questions of the same id; give every one its own.")
    return made


def read_free_questions(path: str | Path) -> list[FreeQuestion]:
    """Read questions without options from YAML, in the form of "Emergent Misalignment".

    A list of entries with `id`, `paraphrases`, and perhaps `system` (Betley et al., arXiv
    2502.17424); every paraphrase becomes a question. Judges and their prompts are left out.

    Raises:
        InputError: the file is missing, empty, malformed, or a field is missing.
    """
    file = Path(path)
    made = []
    for number, entry in enumerate(_entries(file, (".yaml", ".yml"))):
        where = f"entry {number} of {file}"
        name = str(_field(entry, "id", where))
        said = _field(entry, "paraphrases", where)
        if not isinstance(said, list) or not all(_is_text(text) for text in said):
            raise InputError(f"{where} ({name}) has no list of texts as its paraphrases.")
        made += [
            FreeQuestion(f"{name}-{i}", file.stem, text.strip(), entry.get("system"))
            for i, text in enumerate(said)
        ]
    return made


def read_dialogues(path: str | Path, label: str | None = None) -> PromptSet:
    """Read dialogues as prompts: each is cut behind the first words of the user.

    JSONL with `messages`, in which assistants and tools may speak afterwards; what they said is
    left out.

    Args:
        path: of the file.
        label: of all prompts; each line's `split` if None.

    Raises:
        InputError: the file is missing, empty, malformed, or a dialogue has no words of a user.
    """
    file = Path(path)
    made = []
    for number, entry in enumerate(_entries(file, (".jsonl",))):
        where = f"dialogue {number} of {file}"
        messages = _field(entry, "messages", where)
        roles = [message.get("role") for message in messages]
        if "user" not in roles or not _is_text(messages[roles.index("user")].get("content")):
            raise InputError(f"{where} has no words of a user.")
        asked = [
            {"role": m["role"], "content": m["content"]}
            for m in messages[: roles.index("user") + 1]
        ]
        name = label if label is not None else str(_field(entry, "split", where))
        made.append(Prompt(tuple(asked), name, file.stem))
    return PromptSet(tuple(made))


def _entries(file: Path, suffixes: tuple[str, ...]) -> list[Mapping[str, Any]]:
    if file.suffix not in suffixes:
        raise InputError(f"{file} is no {' or '.join(suffixes)}; give such a file.")
    try:
        found = _parsed(decoded(read_bytes(file)), file.suffix)
    except ValueError as error:
        raise InputError(f"{file} is not readable ({first_line(error)}).") from error
    if not isinstance(found, list) or not found:
        raise InputError(f"{file} holds no list of entries, or an empty one.")
    if not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{file} holds an entry that has no fields.")
    return found


def _parsed(text: str, suffix: str) -> Any:
    if suffix == ".jsonl":
        return [entry for _, entry in json_lines(text)]
    if suffix == ".json":
        return parse_json(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(first_line(error)) from error
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error


def _question(
    entry: Mapping[str, Any], where: str, _: str = "", topic: str = "questions"
) -> Question:
    options, key = _field(entry, "options", where), _field(entry, "key", where)
    if not isinstance(options, list) or len(options) < 2 or not all(map(_is_text, options)):
        raise InputError(f"{where} needs a list of two options or more.")
    if not isinstance(key, int) or not 0 <= key < len(options):
        raise InputError(f"{where} has the key {key!r}; give the index of an option, from 0.")
    return Question(
        str(_field(entry, "id", where)),
        str(entry.get("topic", topic)),
        str(_field(entry, "text", where)),
        tuple(options),
        key,
    )


def _lettered(entry: Mapping[str, Any], where: str, name: str, topic: str) -> Question:
    parted = _CHOICES.match(str(_field(entry, "question", where)))
    choices = _CHOICE.findall(parted[2]) if parted else []
    letters = [letter for letter, _ in choices]
    admits = str(_field(entry, "answer_matching_behavior", where)).strip().strip("()")
    if parted is None or len(choices) < 2 or admits not in letters:
        raise InputError(
            f"{where} does not name its choices as (A), (B) … behind a line `Choices:`, with "
            f"{admits!r} among them."
        )
    return Question(
        name, topic, parted[1].strip(), tuple(text for _, text in choices), letters.index(admits)
    )


def _field(entry: Mapping[str, Any], name: str, where: str) -> Any:
    if entry.get(name) in (None, "", []):
        raise InputError(f"{where} has no {name!r}.")
    return entry[name]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
