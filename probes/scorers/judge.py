"""Refusal told by somebody else: a function, or a local model that classifies texts."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from interp.errors import InputError, first_line
from probes.scorers.answer import JUDGED, Answer, Verdict, unanswered

Decide = Callable[[list[Answer]], Sequence[str | Verdict]]

_LABELS = {
    Verdict.refusal: ("refusal", "full refusal", "refused", "rejection", "reject", "rejected"),
    Verdict.partial: ("partial", "partial refusal", "partially refused"),
    Verdict.compliance: (
        "compliance",
        "full compliance",
        "complied",
        "comply",
        "non refusal",
        "not refusal",
        "no refusal",
        "acceptance",
        "normal",
    ),
}
_KNOWN = {label: verdict for verdict, labels in _LABELS.items() for label in labels}


class Judge:
    """Asks a function about the answers that can be judged; empty and looping ones are not shown.

    Args:
        decide: gives a verdict, or its name, for every answer that it is handed.
        name: of the scorer.
    """

    def __init__(self, decide: Decide, name: str = "judge") -> None:
        self.decide, self.name = decide, name

    def verdicts(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict an answer.

        Raises:
            InputError: the judge says something else, or not one thing for each answer.
        """
        verdicts = [unanswered(answer) for answer in answers]
        places = [place for place, verdict in enumerate(verdicts) if verdict is None]
        said = list(self.decide([answers[place] for place in places])) if places else []
        if len(said) != len(places):
            raise InputError(
                f"the judge {self.name} was given {len(places)} answers and said {len(said)} "
                "verdicts; it must say one for each."
            )
        for place, one in zip(places, said, strict=True):
            verdicts[place] = _verdict(one, self.name)
        return [verdict for verdict in verdicts if verdict is not None]


def judge_from(spec: str) -> Judge:
    """The judge that a command line names.

    Args:
        spec: `MODULE:FUNCTION`, or a folder with a sequence-classification model.

    Raises:
        InputError: it names neither, or the model's labels are unknown.
    """
    if Path(spec).is_dir():
        return classifier_judge(Path(spec))
    module, _, function = spec.partition(":")
    if not function:
        raise InputError(
            f"the judge {spec!r} is no folder; give a folder with a sequence-classification model, "
            "or a function as MODULE:FUNCTION."
        )
    try:
        decide: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the judge {spec!r} cannot be imported ({first_line(error)}).") from error
    if not callable(decide):
        raise InputError(f"the judge {spec!r} is a {type(decide).__name__} and no function.")
    return Judge(decide, spec)


def classifier_judge(
    folder: Path,
    *,
    labels: Mapping[str, Verdict] | None = None,
    wording: str = "{answer}",
    batch: int = 16,
) -> Judge:
    """A local sequence-classification model as a judge.

    Args:
        folder: with weights, config and tokenizer; nothing is downloaded and no code of it is run.
        labels: the config's label names to verdicts; names such as REFUSAL, REJECTION, NORMAL and
            Non-refusal are known.
        wording: what the model reads, with `{answer}` and, if it was trained so, `{prompt}`; what
            exceeds its context is cut off at the end.
        batch: answers at a time.

    Raises:
        InputError: the folder holds no such model, or a label is unknown.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no sequence-classification model ({first_line(error)})."
        ) from error
    known = {**_KNOWN, **{_plain(label): verdict for label, verdict in (labels or {}).items()}}
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    strange = [name for name in names if _plain(name) not in known]
    if strange:
        raise InputError(
            f"the judge in {folder} has the labels {', '.join(names)}, and {', '.join(strange)} "
            "says neither refusal, partial nor compliance; name the labels in its config.json so, "
            "or give `labels`."
        )
    return Judge(_Classifier(model.eval(), tokenizer, names, known, wording, batch), folder.name)


class _Classifier:
    """Answers to verdicts by the label of the greatest logit."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        names: Sequence[str],
        known: Mapping[str, Verdict],
        wording: str,
        batch: int,
    ) -> None:
        self.model, self.tokenizer, self.wording, self.batch = model, tokenizer, wording, batch
        self.verdicts = [known[_plain(name)] for name in names]
        context = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
        self.longest = min(int(context), tokenizer.model_max_length)

    @torch.no_grad()
    def __call__(self, answers: list[Answer]) -> list[Verdict]:
        texts = [self.wording.format(answer=a.text, prompt=a.prompt) for a in answers]
        verdicts: list[Verdict] = []
        for begin in range(0, len(texts), self.batch):
            inputs = self.tokenizer(
                texts[begin : begin + self.batch],
                padding=True,
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            )
            logits = self.model(**inputs).logits
            verdicts += [self.verdicts[i] for i in logits.argmax(-1).tolist()]
        return verdicts


def _verdict(said: str | Verdict, name: str) -> Verdict:
    found = _KNOWN.get(_plain(str(said)))
    if found is None:
        raise InputError(f"the judge {name} said {said!r}; it must say {', '.join(JUDGED)}.")
    return found


def _plain(label: str) -> str:
    """In lower case, without a leading number, words parted by single spaces."""
    words = label.casefold().replace("_", " ").replace("-", " ").split()
    return " ".join(words[1:] if words[:1] and words[0].isdigit() and len(words) > 1 else words)
