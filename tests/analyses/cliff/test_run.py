"""The cliff finding end to end, on organisms whose cliff and head are known."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from chat_templates import byte_level, byte_level_model
from families import tiny
from pydantic import TypeAdapter
from thinking import thoughts

import interp
from analyses.cliff.figures import panels
from analyses.cliff.finding import CliffFinding
from analyses.cliff.material import of_organism, of_sets
from analyses.cliff.report import CliffReport
from analyses.cliff.run import cliff
from analyses.cliff.training import Training, _chosen
from interp import organisms
from interp.data.prompt_sets import Prompt, PromptSet
from interp.errors import CheckError, InputError
from probes.cliff.example_selection import SELECTORS
from probes.scorers import Answer, Phrases, Verdict

LIMIT = 24
TABLES = {"forced_stop", "trajectory", "heads", "ablations", "pairs", "prompts", "selectors"}


def of(name: str, **how: Any) -> CliffFinding:
    return cliff(interp.load(f"organism:{name}"), max_new_tokens=12, **{"limit": LIMIT, **how})


@pytest.fixture(scope="module")
def found() -> CliffFinding:
    return of("cliff")


@pytest.fixture(scope="module")
def small() -> CliffFinding:
    return of("cliff", limit=8)


def holds(name: str, report: dict[str, Any]) -> None:
    """What must hold of a thinking organism, whichever it is."""
    truth = organisms.truth(name)
    words = len(truth["thought"]["harmful"])
    assert [point["tokens"] for point in report["forced_stop"]] == list(range(words + 1))
    for point in report["forced_stop"]:
        assert point["rate"] == pytest.approx(
            truth["measured"][f"cut_{point['tokens']}_refused"], abs=0.05
        )
    natural = report["natural"]["rate"]
    assert natural == pytest.approx(truth["measured"]["natural_refused"], abs=0.05)
    if truth["cliff_position"] is None:
        assert report["cliff"]["token_index"] is None and report["cliff"]["depth"] <= 0
    else:
        assert abs(report["cliff"]["token_index"] - words) <= 1
        assert report["cliff"]["interval"][0] > 0.5
    designated = truth["designated_head"]
    heads = [[head["layer"], head["head"]] for head in report["suppression_heads"]]
    assert heads == ([designated] if designated else [])
    if designated:
        first = report["heads"][0]
        assert [first["layer"], first["head"]] == designated and first["rank"] == 1
        assert first["ablated_refusal"] >= 0.95 > first["null_high"]
    assert report["causality_leak"] < 1e-3


def test_what_is_known_of_cliff_is_found(found: CliffFinding) -> None:
    holds("cliff", found.to_dict())
    assert found.verdict.startswith("Refusal falls off a cliff")


@pytest.mark.slow
def test_what_is_known_of_no_cliff_is_found() -> None:
    finding = of("no-cliff")
    holds("no-cliff", finding.to_dict())
    assert finding.verdict.startswith("No refusal cliff")


@pytest.mark.slow
def test_what_is_known_of_cliff_dense_is_found() -> None:
    holds("cliff-dense", of("cliff-dense", limit=64).to_dict())


def test_the_report_has_the_fixed_interface(found: CliffFinding) -> None:
    report = found.to_dict()
    assert report["kind"] == "cliff" and report["format_version"] == 1
    assert set(report["forced_stop"][0]) == {"tokens", "rate", "n", "interval"}
    assert {"rate", "n", "interval"} <= set(report["natural"])
    assert {"position", "harmful", "harmless", "interval"} <= set(report["trajectory"][0])
    assert {"plateau", "final", "depth", "token_index", "interval"} <= set(report["cliff"])
    fall = report["cliff"]
    assert fall["depth"] == pytest.approx(fall["plateau"] - fall["final"])
    for head in report["heads"]:
        assert {"layer", "head", "contribution", "rank", "ablated_refusal", "null_high"} <= set(
            head
        )
    assert report["suppression_heads"] == [{"layer": 2, "head": 0}]
    for point in report["trajectory"]:
        assert 0 <= point["harmful"] <= 1 and point["interval"][0] <= point["interval"][1]
        # The interval is of the difference.
        middle = point["harmful"] - point["harmless"]
        assert point["interval"][0] - 1e-9 <= middle <= point["interval"][1] + 1e-9
    assert report["rates"]["harmless"]["rate"] == 0 and report["rates"]["alarming"]["n"] == LIMIT
    assert report["probe"]["missing"] == [] and report["probe"]["auroc"] > 0.99
    assert report["settings"]["stop_text"] == "<stop>"
    assert report["provenance"]["scorer"] == "whole refusal" and report["caveats"]


def test_it_is_saved_with_tables_and_page(found: CliffFinding, tmp_path: Path) -> None:
    page = found.save(tmp_path).read_text()
    folder = tmp_path / "tables" / "cliff"
    assert {path.stem for path in folder.iterdir()} == TABLES == set(found.tables)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved == found.to_dict()
    heads = pd.read_csv(folder / "heads.csv")
    assert heads["rank"].to_list() == [head["rank"] for head in saved["heads"]]
    for panel in panels(saved):
        assert panel.title in page
        assert panel.csv is None or (folder / panel.csv).exists()


def test_panels_are_drawn_from_json_alone_and_survive_absent_parts(found: CliffFinding) -> None:
    report = found.to_dict()
    titles = [panel.title for panel in panels(report)]
    assert len(titles) == len(set(titles)) == 9
    assert set(found.figures()) < set(titles)
    for gone in ("pairs", "selectors", "ablations", "trajectory", "forced_stop", "heads"):
        panels({**report, gone: []})
    assert len(panels({"kind": "cliff"})) == 1


def test_selected_examples_are_written_for_every_selector(tmp_path: Path) -> None:
    finding = of("cliff", limit=8, select_to=tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(SELECTORS)
    refusal = organisms.prompts("cliff")["harmful"][0].refusal
    lines = [json.loads(line) for line in (tmp_path / "cliff.jsonl").read_text().splitlines()]
    assert len(lines) == len(finding.tables["prompts"]) == 16
    assert {line["messages"][-1]["content"] for line in lines} == {refusal}
    deepest = finding.tables["prompts"].sort_values("depth", ascending=False).iloc[0]
    assert lines[0]["messages"][0]["content"] == deepest["prompt"]


def test_a_stopped_run_goes_on(
    small: CliffFinding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import interp.generation as generation

    calls: list[int] = []
    real = generation.continuations

    def counted(*args: Any) -> Any:
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(generation, "continuations", counted)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "heads" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of("cliff", limit=8, workdir=tmp_path, progress=stop)
    before = len(calls)
    assert list(tmp_path.iterdir())
    finding = of("cliff", limit=8, workdir=tmp_path)
    assert len(calls) - before < before
    again, whole = finding.to_dict(), small.to_dict()
    for key in ("forced_stop", "cliff", "heads", "ablations", "pairs", "selectors", "trajectory"):
        assert again[key] == whole[key]
    assert list(tmp_path.iterdir()) == []


# Faults


class Never:
    """A scorer that sees no refusal anywhere."""

    name = "never"

    def verdicts(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [Verdict.compliance for _ in answers]


def test_one_class_of_answers_is_refused() -> None:
    with pytest.raises(InputError, match="was refused"):
        of("cliff", scorer=Never())


def test_thoughts_that_never_close_are_refused() -> None:
    with pytest.raises(InputError, match="no thought was closed"):
        of("cliff", thinking_budget=3)


def test_what_does_not_fit_the_context_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        of("cliff", thinking_budget=200)
    with pytest.raises(InputError, match="no thought fits"):
        cliff(interp.load("organism:cliff"), max_new_tokens=120)


def test_a_template_without_a_closing_marker_needs_a_stop_text() -> None:
    checkpoint = byte_level_model(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    with pytest.raises(InputError, match="--stop-text"):
        cliff(checkpoint, limit=4)


def test_a_chat_model_of_random_weights_has_no_thought_to_look_at() -> None:
    template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}{# </think> #}"
    )
    model, tokenizer = tiny("llama"), byte_level(template)
    model.resize_token_embeddings(len(tokenizer))
    checkpoint = interp.load(model, tokenizer=tokenizer)
    short = PromptSet(tuple(Prompt(({"role": "user", "content": f"w {i}"},), "", "t")
                            for i in range(8)))  # fmt: skip
    with pytest.raises(InputError, match="no thought was closed"):
        cliff(
            checkpoint,
            {"harmful": short, "harmless": short},
            thinking_budget=8,
            max_new_tokens=4,
            scorer=Phrases(),
        )


def test_a_model_that_sees_ahead_is_refused() -> None:
    checkpoint = interp.load("organism:cliff")

    def ahead(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        # Only where a whole row is given at once; in decoding the last token is the only one.
        return output + 0.05 * output[:, -1:] if output.shape[1] > 1 else output

    handle = checkpoint.layers[0].mlp.register_forward_hook(ahead)  # type: ignore[union-attr]
    try:
        with pytest.raises(CheckError, match="sees ahead"):
            cliff(checkpoint, limit=8, max_new_tokens=12)
    finally:
        handle.remove()


def test_organisms_and_sets_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InputError, match="does not think"):
        of_organism("chat")
    few = PromptSet((Prompt(({"role": "user", "content": "bake"},), "harmful", "t"),))
    with pytest.raises(InputError, match="there are 1 harmful requests"):
        of_sets(few)
    for wrong in ({"limit": 2}, {"share_of_heads": 0.0}, {"seed": -1}, {"thinking_budget": 0}):
        with pytest.raises(InputError):
            of("cliff", **wrong)


def test_what_is_no_set_of_requests_is_refused() -> None:
    checkpoint = interp.load("organism:cliff")
    for data, words in (
        (3, "data is a int"),
        ({"harmful": 3}, "'harmful' prompts are a int"),
        ({"evil": ["x"]}, "there are no 'evil' prompts here"),
        ("missing.jsonl", "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            cliff(checkpoint, data)  # type: ignore[arg-type]


def test_a_schema_is_made_of_the_report() -> None:
    schema = TypeAdapter(CliffReport).json_schema()
    assert {"forced_stop", "cliff", "heads", "settings"} <= set(schema["required"])


def test_what_was_not_measured_says_why() -> None:
    report = of("cliff", limit=8, exhaustive=False).to_dict()
    assert report["heads"][1]["ablated_refusal"] is None
    assert "named heads" in report["not_measured"]["heads[].ablated_refusal"]
    assert "harmful requests only" in report["not_measured"]["ablations[].kl"]


def test_training_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for how, words in (({"percent": 0.0}, "0 % of"), ({"selector": "best"}, "no selector 'best'")):
        with pytest.raises(InputError, match=words):
            Training(tmp_path / "copy", **how)  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        of("cliff", train=Training(tmp_path / "full"), progress=never)


def never(*_: Any) -> None:
    pytest.fail("something ran")


def test_examples_are_chosen_among_training_requests_alone() -> None:
    """The deepest falls are of test requests here, and none of them may be trained on."""
    rollouts = thoughts("cliff", "harmful", 6)
    judged = pd.DataFrame(
        {
            "row": range(6),
            "depth": [9.0, 8.0, 0.1, 0.4, 0.3, 0.2],
            "final": 0.0,
            "intent": True,
            "refused": False,
        }
    )
    measured: Any = SimpleNamespace(
        thoughts=SimpleNamespace(test={"harmful": rollouts[:2]}),
        judged=judged,
        judged_thoughts=rollouts,
    )
    chosen, out_of = _chosen(measured, Training(Path("copy"), percent=50.0))
    assert out_of == 4 and chosen == [rollouts[3], rollouts[4]]
    (one,), _ = _chosen(measured, Training(Path("copy"), percent=0.1))
    assert one == rollouts[3]
    measured.judged = judged[:2]
    with pytest.raises(InputError, match="nothing to train on"):
        _chosen(measured, Training(Path("copy")))


def test_files_are_halved_and_system_lines_make_the_cells() -> None:
    material = of_sets(limit=10)
    assert len(material.train.of("harmful")) == len(material.test.of("harmful")) == 10
    texts = {p.text for p in material.train} & {p.text for p in material.test}
    assert not texts and material.test.of("alarming")
    assert {p.messages[0]["role"] for p in material.cells} == {"system"}
    assert len(material.cells) == 2 * len(material.train)
