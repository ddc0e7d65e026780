"""External judges: functions, local models, and what they may say."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from interp.errors import InputError
from interp.organisms.tokenizer import word_level_tokenizer
from probes.scorers import Answer, Judge, Verdict, classifier_judge, judge_from

ANSWERS = [Answer("q", "no"), Answer("q", ""), Answer("q", "yes " * 12), Answer("q", "yes")]


def decide(answers: list[Answer]) -> list[str]:
    assert all(answer.text for answer in answers)
    return ["2_full_refusal" if answer.text == "no" else "Compliance" for answer in answers]


def test_a_function_judges_what_can_be_judged() -> None:
    said = Judge(decide).verdicts(ANSWERS)
    assert said == ["refusal", "empty", "compliance", "compliance"]
    assert Judge(lambda some: [Verdict.partial] * len(some)).verdicts(ANSWERS[:1]) == ["partial"]
    assert Judge(decide).verdicts(ANSWERS[1:2]) == ["empty"]


def test_a_judge_must_say_one_verdict_each() -> None:
    with pytest.raises(InputError, match="given 3 answers and said 1"):
        Judge(lambda some: ["refusal"]).verdicts(ANSWERS)
    with pytest.raises(InputError, match="said 'safe'; it must say refusal, partial, compliance"):
        Judge(lambda some: ["safe"] * len(some), "mine").verdicts(ANSWERS)


def test_judges_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("own_judge")
    module.decide = decide  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_judge", module)
    judge = judge_from("own_judge:decide")
    assert judge.name == "own_judge:decide" and judge.verdicts(ANSWERS[:1]) == ["refusal"]
    with pytest.raises(InputError, match="is no folder; give a folder"):
        judge_from("nothing")
    with pytest.raises(InputError, match="cannot be imported"):
        judge_from("own_judge:missing")
    with pytest.raises(InputError, match="is a int and no function"):
        judge_from("own_judge:number")


def classifier(folder: Path, labels: dict[int, str]) -> Path:
    """A model that says its second label exactly if the text holds the word "no"."""
    config = BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=8,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
    )
    model = BertForSequenceClassification(config)
    made: PreTrainedTokenizerFast = word_level_tokenizer(
        ("<pad>", "<bos>", "<eos>", "no", "yes", "q"),
        bos="<bos>", pad="<pad>", eos="<eos>", markers=(), chat_template="",
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # Attention is uniform: it hands the mark of the one word to the first token.
        model.bert.embeddings.word_embeddings.weight[3, 0] = 1.0
        block = model.bert.encoder.layer[0]
        for norm in (model.bert.embeddings.LayerNorm, block.attention.output.LayerNorm,
                     block.output.LayerNorm):  # fmt: skip
            norm.weight.fill_(1)
        block.attention.self.value.weight[0, 0] = 1.0
        block.attention.output.dense.weight[0, 0] = 1.0
        model.bert.pooler.dense.weight[0, 0] = 1.0
        model.classifier.weight[1, 0] = 1.0
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def test_a_local_model_judges(tmp_path: Path) -> None:
    judge = judge_from(str(classifier(tmp_path / "rejection", {0: "NORMAL", 1: "REJECTION"})))
    assert judge.name == "rejection"
    assert judge.verdicts(ANSWERS) == ["refusal", "empty", "compliance", "compliance"]


def test_unknown_labels_are_refused_unless_named(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "odd", {0: "LABEL_0", 1: "REFUSAL"})
    with pytest.raises(InputError, match="has the labels LABEL_0, REFUSAL, and LABEL_0 says"):
        judge_from(str(folder))
    judge = classifier_judge(folder, labels={"LABEL_0": Verdict.partial})
    assert judge.verdicts(ANSWERS[-1:]) == ["partial"]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no sequence-classification model"):
        judge_from(str(tmp_path))
