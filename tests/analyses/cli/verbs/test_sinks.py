"""`mechguard sinks`: the report on disk, and every way to get none."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from golden import assert_as_published, stories

from analyses.report.folder import claimed

Run = Callable[..., Any]
QUICK = ["--length", "12", "--causal-sequences", "0"]
# Those of a model without massive activations, on one domain.
TABLES = {"heads", "layers", "positions", "sink_tokens", "domains"}


def strict(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    report: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return report


def test_writes_page_json_and_tables(run: Run, shelf: Path, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "deep" / "out"
    result = run("sinks", shelf / "llama", "--texts", shelf / "words.txt", "--out", out, *QUICK)
    assert result.code == 0, result.err
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "tables"}
    assert {path.stem for path in (out / "tables" / "sinks").iterdir()} == TABLES
    report = strict(out / "report.json")
    assert report["kind"] == "sinks" and report["causal"] is None
    assert result.out.splitlines() == [report["verdict"], str(out / "report.html")]
    heads = pd.read_csv(out / "tables" / "sinks" / "heads.csv")
    found = [head["alpha_first"] for head in report["heads"]]
    assert heads["alpha_first"].to_list() == pytest.approx(found, rel=1e-12)
    command = report["provenance"]["command"]
    assert command.startswith("mechguard sinks ") and command.endswith("--causal-sequences 0")
    page = (out / "report.html").read_text()
    assert report["verdict"].split(":")[0] in page
    assert page.count("<script src") == 0 and len(page) < 6e6
    assert list(cache.iterdir()) == []


def test_a_folder_with_another_report_needs_overwrite(
    run: Run, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, words = tmp_path / "out", ("--texts", shelf / "words.txt")

    def data() -> list[str]:
        return [one["name"] for one in strict(out / "report.json")["provenance"]["data"]]

    call = ["sinks", shelf / "llama", "--out", out, *QUICK]
    assert run(*call, *words).code == 0
    assert run(*call, *words, "--seed", "1").code == 0
    other = ("--texts", shelf / "other.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("interp.resolve.load", lambda *_, **__: pytest.fail("was loaded"))
        run(*call, *other).assert_refused(2, "a run with other data", "--overwrite")
        whole = ("report", shelf / "llama", "--out", out, *QUICK, *words)
        run(*whole).assert_refused(2, "a run with other analysis (sinks, not report)")
    assert [entry["name"] for entry in strict(out / "report.json")["provenance"]["data"]] == [
        "words"
    ]
    assert run(*call, *other, "--overwrite").code == 0
    assert [entry["name"] for entry in strict(out / "report.json")["provenance"]["data"]] == [
        "other"
    ]


def test_two_runs_do_not_share_a_folder(run: Run, shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claimed(out, kind="sinks", model="another"):
        call = ["sinks", shelf / "llama", "--texts", shelf / "words.txt", "--out", out, *QUICK]
        run(*call).assert_refused(2, "another run is writing to")
    assert not out.exists()


@pytest.mark.parametrize("bos", [True, False])
def test_stories260k_equals_its_published_measurements(
    run: Run, reference: Callable[[str], Path], tmp_path: Path, bos: bool
) -> None:
    texts, model = tmp_path / "stories.json", reference("models/stories260K-hf")
    texts.write_text(json.dumps(stories(reference)))
    flag = "--bos" if bos else "--no-bos"
    arguments = ["--texts", texts, "--out", tmp_path / "out", flag, "--causal-sequences", "0"]
    result = run("sinks", model, *arguments)
    assert result.code == 0, result.err
    assert_as_published(strict(tmp_path / "out" / "report.json"), bos, reference)


def test_options_reach_the_report(run: Run, shelf: Path, tmp_path: Path) -> None:
    result = run(
        *("sinks", shelf / "llama", "--texts", shelf / "words.txt"),
        *("--texts", shelf / "other.jsonl", "--out", tmp_path / "out", "--length", "9"),
        *("--max-sequences", "4", "--epsilon", "0.2", "--no-bos", "--dtype", "bfloat16"),
        *("--device", "cpu", "--seed", "5", "--limit", "3", "--causal-sequences", "2"),
    )
    assert result.code == 0, result.err
    report = strict(tmp_path / "out" / "report.json")
    provenance, rate = report["provenance"], report["sink_rate"]
    assert (rate["length"], rate["epsilon"], rate["sequences"]) == (9, 0.2, 6)
    assert provenance["bos"] is False and provenance["seed"] == 5
    assert provenance["dtype"] == "bfloat16" and provenance["device"] == "cpu"
    assert [entry["name"] for entry in provenance["data"]] == ["words", "other"]
    assert report["causal"]["sequences"] == 4
    assert {"auc", "switching"} <= set(report["domain_heads"][0])


def test_bloom_asks_for_eager_and_gets_it(run: Run, shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["sinks", shelf / "bloom", "--texts", shelf / "words.txt", "--out", out, *QUICK]
    run(*call).assert_refused(3, "BloomForCausalLM", "--attention eager")
    assert not out.exists()
    assert run(*call, "--attention", "eager").code == 0
    assert strict(out / "report.json")["provenance"]["attention"] == "eager"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--texts", "none.txt"], "none.txt does not exist"),
        (["--texts", "empty.txt"], "empty.txt holds no text"),
        (["--texts", "llama"], "texts come as"),
        (["--texts", "short.txt"], "none of the 6 documents has 12 tokens"),
        (["--texts", "words.txt", "--length", "1"], "a length of 1"),
        (["--texts", "words.txt", "--length", "400"], "400 tokens do not fit"),
        (["--texts", "words.txt", "--epsilon", "1.5"], "epsilon is 1.5"),
        (["--texts", "words.txt", "--seed", "-1"], "seed"),
        (["--texts", "words.txt", "--limit", "-1"], "limit"),
        (["--texts", "words.txt", "--max-sequences", "0"], "max_sequences"),
        (["--texts", "words.txt", "--device", "tpu"], "device 'tpu' is unknown"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run, shelf: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    out = tmp_path / "out"
    arguments[1] = str(shelf / arguments[1])
    run("sinks", shelf / "llama", "--out", out, *QUICK, *arguments).assert_refused(2, words)
    assert not out.exists()


def test_no_bos_on_a_tokenizer_that_adds_none(run: Run, shelf: Path, tmp_path: Path) -> None:
    call = ["sinks", shelf / "bare", "--texts", shelf / "words.txt", "--out", tmp_path / "out"]
    run(*call, *QUICK, "--no-bos").assert_refused(2, "--no-bos was asked for", "leave the flag out")
    run(*call, *QUICK, "--bos").assert_refused(2, "--bos was asked for", "has no BOS token")


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])


def _unknown(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nonsense"}')


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (_without_weights, 2, "holds no readable weights"),
        (_truncated, 2, "may be truncated"),
        (_unknown, 3, "does not know this model type"),
        (_without_config, 2, "has no config.json"),
        (_without_tokenizer, 2, "has no tokenizer"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(
    run: Run,
    shelf: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    code: int,
    words: str,
) -> None:
    shutil.copytree(shelf / "llama", tmp_path / "model")
    damage(tmp_path / "model")
    call = ["sinks", tmp_path / "model", "--texts", shelf / "words.txt", "--out", tmp_path / "out"]
    run(*call, *QUICK).assert_refused(code, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "further"])
def test_out_must_be_a_folder_and_is_looked_at_first(
    run: Run, shelf: Path, tmp_path: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    monkeypatch.setattr("interp.resolve.load", lambda *_, **__: pytest.fail("was loaded"))
    call = ["sinks", shelf / "llama", "--texts", shelf / "words.txt", "--out", taken / below]
    run(*call, *QUICK).assert_refused(2, "taken is a file", "name a folder")
    assert taken.read_text() == "mine"


def _full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_full_of_shards_keeps_what_was_done(
    run: Run, shelf: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    call = ["sinks", shelf / "llama", "--texts", shelf / "words.txt", "--out", out]
    call += ["--length", "12", "--causal-sequences", "2"]
    from interp.resume import files

    real, written = files.save_file, []

    def third_fails(arrays: Any, path: Any, notes: Any) -> None:
        if len(written) == 2:
            Path(path).write_bytes(b"half")
            _full_disk()
        written.append(path)
        real(arrays, path, notes)

    monkeypatch.setattr(files, "save_file", third_fails)
    run(*call).assert_refused(2, "No space left on device", "free some")
    assert not out.exists()
    (unfinished,) = cache.iterdir()
    names = {path.name for path in unfinished.rglob("*") if path.is_file()}
    assert names == {"lock", "run.json", "batch-000000.safetensors", "causal-0000.safetensors"}
    monkeypatch.setattr(files, "save_file", real)
    assert run(*call).code == 0
    assert list(cache.iterdir()) == []


def test_a_disk_full_of_report_leaves_the_old_one(
    run: Run, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    call = ["sinks", shelf / "llama", "--texts", shelf / "words.txt", "--out", out, *QUICK]
    assert run(*call).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    from analyses.report import writing

    real = writing._put

    def no_page(content: Any, path: Path) -> None:
        real(content, path)
        if path.name == "report.html":
            _full_disk()

    monkeypatch.setattr(writing, "_put", no_page)
    run(*call, "--seed", "1").assert_refused(2, "No space left on device")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "tables"}
