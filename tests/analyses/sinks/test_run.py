"""`analyses.sinks` against published measurements, and what it does with its arguments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import VOCAB, tiny
from golden import assert_as_published, stories
from words import documents, tokenizer, wordy

import analyses
from analyses.sinks.run import sinks
from interp.checkpoint import Checkpoint
from interp.data.rows import Texts
from interp.errors import InputError, NumericalError, UnsupportedModelError
from interp.organisms import texts
from interp.resolve import load

Reference = Callable[[str], Path]
LENGTH = 12


@pytest.mark.parametrize("bos", [True, False])
def test_stories260k_equals_its_published_measurements(reference: Reference, bos: bool) -> None:
    checkpoint = load(reference("models/stories260K-hf"), dtype="float32")
    data = {"stories": stories(reference)}
    report = sinks(checkpoint, data, bos=bos, causal_sequences=0).to_dict()
    assert_as_published(report, bos, reference)
    assert report["parity"]["max_logit_difference"] <= 1e-5 * report["parity"]["largest_logit"]


def test_gpt_nano_sort_attends_as_its_author_published(reference: Reference) -> None:
    """Its `attSm` is [sequence, head, query, key] of block 0."""
    checkpoint = load(reference("models/gpt-nano-sort-hf"), dtype="float32")
    published = np.load(reference("models/gpt-nano-sort-hf/partials.npz"))
    ids = published["idx"].astype(int).tolist()
    finding = sinks(checkpoint, token_ids={"sort": ids}, causal_sequences=0)
    first = published["attSm"][..., 0]
    ours = finding.heads[finding.heads["layer"] == 0]
    assert ours["alpha_first"].to_numpy() == pytest.approx(first.mean((0, 2)), rel=1e-5)
    assert ours["sink_mass"].to_numpy() == pytest.approx(first[..., 1:].mean((0, 2)), rel=1e-5)
    for layer in range(3):
        norms = np.linalg.norm(published[f"block{layer}"], axis=-1)
        row = finding.layers.iloc[layer]
        assert row["residual_norm_first"] == pytest.approx(norms[:, 0].mean(), rel=1e-5)
        assert row["residual_norm_rest"] == pytest.approx(norms[:, 1:].mean(), rel=1e-5)
    assert finding.report["provenance"]["tokenizer_hash"] is None


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    return wordy("llama")


def _quick(checkpoint: Checkpoint, data: Any = None, **settings: Any) -> analyses.SinkFinding:
    if data is None and "token_ids" not in settings:
        data = {"words": documents(5, 20)}
    return sinks(checkpoint, data, **{"length": LENGTH, "causal_sequences": 0, **settings})


def test_the_same_call_gives_the_same_report(llama: Checkpoint) -> None:
    data = {"a": documents(4, 20), "b": documents(4, 20, seed=1)}
    found = [_quick(llama, data, causal_sequences=2, seed=5).to_dict() for _ in range(2)]
    for report in found:
        assert report["provenance"].pop("started") and report["provenance"].pop("wall_seconds") >= 0
    assert found[0] == found[1]
    other = _quick(llama, data, causal_sequences=2, seed=6).to_dict()
    assert other["heads"][0]["alpha_first"] == found[0]["heads"][0]["alpha_first"]
    assert other["heads"][0]["random_delta_loss"] != found[0]["heads"][0]["random_delta_loss"]


def test_how_rows_share_batches_does_not_matter(llama: Checkpoint) -> None:
    rows = [[1, *range(5, 5 + count)] for count in (4, 9, 7, 12)]
    together, alone = (
        _quick(llama, token_ids={"ids": rows}, batch_tokens=tokens) for tokens in (8192, 1)
    )
    for column in ("alpha_first", "sink_mass", "entropy", "value_ratio", "output_norm"):
        expected = alone.heads[column].to_numpy()
        assert together.heads[column].to_numpy() == pytest.approx(expected, rel=1e-5)
    assert any("5 to 12 tokens" in caveat for caveat in alone.caveats)


def test_files_documents_and_mappings_are_all_data(llama: Checkpoint, tmp_path: Path) -> None:
    words = documents(3, 20)
    (tmp_path / "one.txt").write_text("\n\n".join(words))
    (tmp_path / "two.json").write_text(json.dumps(words))
    forms: list[Any] = [
        {"one": words},
        words,
        [tmp_path / "one.txt"],
        [str(tmp_path / "two.json")],
        [Texts("one", "0" * 64, tuple(words))],
        tmp_path / "one.txt",
        str(tmp_path / "one.txt"),
        Texts("one", "0" * 64, tuple(words)),
    ]
    found = [_quick(llama, form).to_dict() for form in forms]
    assert [report["provenance"]["data"][0]["name"] for report in found] == [
        "one",
        "texts",
        "one",
        "two",
        "one",
        "one",
        "one",
        "one",
    ]
    for report in found[1:]:
        assert report["heads"] == found[0]["heads"]


def test_without_data_only_an_organism_is_measured(llama: Checkpoint) -> None:
    finding = sinks(load("organism:bb-plain"), max_sequences=4, causal_sequences=0)
    names = [entry["name"] for entry in finding.report["provenance"]["data"]]
    assert len(names) > 1 and names == list(texts("bb-plain"))
    with pytest.raises(InputError, match="`data` in Python"):
        sinks(llama)


def test_two_files_of_one_name_stay_two_domains(llama: Checkpoint, tmp_path: Path) -> None:
    paths = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        paths.append(tmp_path / str(number) / "same.txt")
        paths[-1].write_text("\n\n".join(documents(3, 20, seed=number)))
    finding = _quick(llama, paths)
    assert finding.tables["domains"]["name"].tolist() == ["same", "same (2)"]
    hashes = [entry["sha256"] for entry in finding.report["provenance"]["data"]]
    assert len(set(hashes)) == 2


def test_short_documents_are_counted_and_limits_hold(llama: Checkpoint) -> None:
    words = [*documents(2, 3), *documents(6, 20)]
    finding = _quick(llama, {"words": words}, max_sequences=4)
    (entry,) = finding.report["provenance"]["data"]
    assert (entry["sequences"], entry["skipped"]) == (4, 2)
    (entry,) = _quick(llama, {"words": words}, limit=5).report["provenance"]["data"]
    assert (entry["sequences"], entry["skipped"]) == (3, 2)


def test_token_ids_are_cut_and_capped(llama: Checkpoint) -> None:
    rows = [list(range(1, 30))] * 5
    finding = _quick(llama, token_ids={"ids": rows}, max_sequences=3)
    assert finding.report["sink_rate"]["length"] == LENGTH
    assert finding.report["sink_rate"]["sequences"] == 3


def test_progress_comes_by_stage(llama: Checkpoint) -> None:
    calls: list[tuple[str, int, int]] = []
    _quick(llama, causal_sequences=1, progress=lambda *step: calls.append(step))
    assert calls[-1] == ("heads", 16, 16)
    assert ("rows", 5, 5) in calls
    assert [stage for stage, _, _ in calls] == sorted((s for s, _, _ in calls), reverse=True)


def test_a_done_run_leaves_no_work_behind(llama: Checkpoint, tmp_path: Path) -> None:
    plain = _quick(llama, causal_sequences=1).to_dict()
    kept = _quick(llama, causal_sequences=1, workdir=tmp_path / "work").to_dict()
    assert kept["heads"] == plain["heads"]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_stopped_run_goes_on(llama: Checkpoint, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"causal_sequences": 1, "workdir": tmp_path, "batch_tokens": 24}
    whole = _quick(llama, causal_sequences=1, batch_tokens=24).to_dict()

    def stop_late(stage: str, done: int, total: int) -> None:
        if stage == "heads" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _quick(llama, progress=stop_late, **settings)
    (folder,) = tmp_path.iterdir()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert len([name for name in kept if name.startswith("batch-")]) == 3
    assert "causal-0002.safetensors" in kept and "causal-0003.safetensors" not in kept
    ran: list[int] = []
    handle = llama.layers[0].mlp.register_forward_pre_hook(lambda *_: ran.append(1))
    resumed = _quick(llama, **settings).to_dict()
    handle.remove()
    assert resumed["heads"] == whole["heads"]
    assert list(tmp_path.iterdir()) == []
    # Three passes for parity, one for the input of the last layer, one for the loss to report.
    assert len(ran) == 5


def test_another_seed_is_another_work_folder(llama: Checkpoint, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            _quick(llama, seed=seed, workdir=tmp_path, progress=stop)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"causal_sequences": -1}, "causal_sequences"),
        ({"max_sequences": 0}, "max_sequences"),
        ({"seed": -1}, "seed"),
        ({"limit": 0}, "limit"),
        ({"limit": -2}, "limit"),
        ({"length": 1}, "length"),
        ({"length": 22}, "none of the 5 documents has 22 tokens"),
        ({"length": 300}, "300 tokens do not fit"),
        ({"data": "words.txt"}, "words.txt does not exist"),
        ({"data": ["w5 w6", "texts/words"]}, "texts/words does not exist"),
        ({"data": Path("words")}, "words does not exist"),
        ({"data": []}, "no texts"),
        ({"data": {}}, "no texts"),
        ({"data": 5}, "data is a int"),
        ({"data": ["w5 w6", 5]}, "data holds a int"),
        ({"data": {"words": 5}}, "documents of 'words' are a int"),
        ({"data": {"words": "w5 w6"}}, "documents of 'words' are a str"),
        ({"token_ids": {"ids": [[1, VOCAB]]}}, f"from 0 to {VOCAB - 1}"),
        ({"token_ids": {"ids": []}}, "no rows"),
        ({"data": ["w5 w6"], "token_ids": {"ids": [[1, 2]]}}, "not both"),
        ({"data": ["<bos> " + "w5 " * 20]}, "already starts with"),
    ],
)
def test_unusable_arguments_are_named(
    llama: Checkpoint, settings: dict[str, Any], message: str
) -> None:
    data = settings.pop("data", None)
    with pytest.raises(InputError, match=message) as caught:
        _quick(llama, data, **settings)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_bos_must_be_as_the_tokenizer_can() -> None:
    bare = wordy("llama", bos=False)
    assert _quick(bare).report["provenance"]["bos"] is False
    for bos, message in ((True, "has no BOS token"), (False, "adds no BOS")):
        with pytest.raises(InputError, match=message):
            _quick(bare, bos=bos)


def test_a_work_folder_that_cannot_be_is_named(llama: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        _quick(llama, workdir=tmp_path / "taken")


def test_a_model_that_bypasses_the_interface_needs_eager() -> None:
    from refused import bypassing

    checkpoint = load(bypassing("bloom"), tokenizer=tokenizer())
    with pytest.raises(UnsupportedModelError, match="eager"):
        _quick(checkpoint)
    finding = _quick(checkpoint, attention="eager", causal_sequences=1)
    assert finding.heads["alpha_first"].between(0, 1).all()
    assert finding.heads["ablation_delta_loss"].notna().all()
    assert finding.report["parity"]["max_statistic_difference"] is None
    reason = finding.report["not_measured"]["parity.max_statistic_difference"]
    assert reason == "the statistics are those of the eager weights themselves"


def test_nan_weights_are_an_error_and_leave_the_model_whole(tmp_path: Path) -> None:
    model = tiny("llama")
    checkpoint = load(model, tokenizer=tokenizer())
    implementation = model.config._attn_implementation
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"layer 2 is NaN or infinite in row 0"):
        _quick(checkpoint, workdir=tmp_path)
    assert model.config._attn_implementation == implementation
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
