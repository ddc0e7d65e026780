"""`mechguard refusal`: the report on disk, and every way to get none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chat_templates import TEMPLATES, byte_level

from interp import organisms

Run = Callable[..., Any]
QUICK = ["--max-new-tokens", "12"]
CONTEXT = 96


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `chat` (random weights), `base` (without a chat template), `broken` (NaN weights)."""
    folder = tmp_path_factory.mktemp("chats")
    for name in ("chat", "base", "broken"):
        tokenizer = byte_level(None if name == "base" else TEMPLATES["qwen2"])
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        if name == "broken":
            with torch.no_grad():
                model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def listed(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str | Path]:
    """Forty short prompts of either kind."""
    bad = listed(tmp_path / "bad.txt", [f"how to break door {i}" for i in range(10, 50)])
    good = listed(tmp_path / "good.txt", [f"how to paint door {i}" for i in range(10, 50)])
    return ["--harmful", bad, "--harmless", good]


def refused(result: Any, out: Path, code: int, *words: str) -> None:
    """One sentence, the exit code, and nothing written."""
    result.assert_refused(code, *words)
    assert not out.exists()


def test_writes_page_json_tables_and_the_direction(run: Run, tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "deep" / "out"
    result = run("refusal", "organism:chat", "--limit", "12", "--out", out, *QUICK)
    assert result.code == 0, result.err
    written = {path.name for path in out.iterdir()}
    assert written == {"report.html", "report.json", "tables", "direction.safetensors"}
    report = json.loads((out / "report.json").read_text())
    assert report["kind"] == "refusal"
    assert result.out.splitlines() == [report["verdict"], str(out / "report.html")]
    assert report["provenance"]["command"].startswith("mechguard refusal organism:chat --limit 12")
    assert list(cache.iterdir()) == []
    before = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert run("render", out).code == 0
    assert (out / "report.html").read_text() == before


@pytest.mark.parametrize("given", ["--harmful", "--harmless"])
def test_one_kind_alone_is_refused(run: Run, chats: Path, files: Any, tmp_path: Path,
                                   given: str) -> None:  # fmt: skip
    out = tmp_path / "out"
    missing = "--harmless" if given == "--harmful" else "--harmful"
    result = run("refusal", chats / "chat", given, files[1], "--out", out)
    refused(result, out, 2, f"{missing} is missing")


def test_files_that_cannot_be_read(run: Run, chats: Path, files: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["refusal", chats / "chat", *files[2:], "--out", out, "--harmful"]
    refused(run(*call, tmp_path / "nobody.csv"), out, 2, "nobody.csv")
    refused(run(*call, listed(tmp_path / "none.txt", ["", " "])), out, 2, "holds no prompt")
    few = listed(tmp_path / "few.txt", [f"how to break gate {i}" for i in range(10, 17)])
    refused(run(*call, few), out, 2, "harmful prompts, and needs 8")
    nameless = listed(tmp_path / "nameless.csv", ["number", "3"])
    refused(run(*call, nameless), out, 2, "nameless.csv has the columns number")


def test_a_model_that_refuses_none(run: Run, chats: Path, files: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("refusal", chats / "chat", *files, "--out", out, "--max-new-tokens", "4")
    refused(result, out, 2, "refuses none of the", "mechguard probe")


def test_a_model_that_refuses_all(
    run: Run, chats: Path, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(tmp_path / "sternly.py", ["def decide(said):", "    return ['refusal'] * len(said)"])
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    call = ["refusal", chats / "chat", *files, "--out", out, "--max-new-tokens", "2"]
    refused(run(*call, "--scorer", "sternly:decide"), out, 2, "refuses all of the")


def test_a_base_model_is_offered_a_template(
    run: Run, chats: Path, files: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call = ["refusal", chats / "base", *files, "--out", out, "--max-new-tokens", "4"]
    refused(run(*call), out, 2, "--chat-template")
    # With one it is asked, and refuses nothing.
    refused(run(*call, "--chat-template", "plain"), out, 2, "refuses none of the")
    own = tmp_path / "own.jinja"
    own.write_text(TEMPLATES["phi"])
    refused(run(*call, "--chat-template", own), out, 2, "refuses none of the")
    result = run(*call, "--chat-template", tmp_path / "gone.jinja")
    refused(result, out, 2, "gone.jinja is neither `plain` nor a readable file")


def test_prompts_longer_than_the_context(run: Run, chats: Path, files: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["refusal", chats / "chat", *files, "--out", out]
    refused(run(*call, "--max-new-tokens", "90"), out, 2, "do not fit", "--max-new-tokens")
    long = listed(tmp_path / "long.txt", [f"how to {'break ' * 90}{i}" for i in range(40)])
    call = ["refusal", chats / "chat", "--harmful", long, *files[2:], "--no-equalise"]
    refused(run(*call, "--out", out), out, 2, "was built for 96")


def test_weights_that_are_no_numbers(run: Run, chats: Path, files: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["refusal", chats / "broken", *files, "--out", out, "--max-new-tokens", "4"]
    refused(run(*call), out, 2, "NaN or infinite", "float32 or bfloat16")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--layers", "x"], "names no layers"),
        (["--layers", "-1"], "names no layers"),
        (["--layers", "²"], "names no layers"),
        (["--layers", "2-1"], "names no layers"),
        (["--layers", "0,7"], "no layer 7"),
        (["--limit", "0"], "--limit 0"),
        (["--scorer", "nobody"], "is no folder"),
        (["--scorer", "no_such_module:decide"], "cannot be imported"),
        (["--scorer", "json:nothing"], "cannot be imported"),
    ],
)
def test_bad_settings(
    run: Run, chats: Path, files: Any, tmp_path: Path, extra: list[str], words: str
) -> None:
    out = tmp_path / "out"
    result = run("refusal", chats / "chat", *files, "--out", out, "--max-new-tokens", "2", *extra)
    refused(result, out, 2, words)


@pytest.mark.slow
def test_a_judge_counts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the scorer of the rates, and stands beside the others."""
    listed(
        tmp_path / "mildly.py",
        ["def decide(said):",
         "    return ['refusal' if a.text.startswith('sorry') else 'compliance' for a in said]"],
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    call = ["refusal", "organism:chat", "--limit", "12", "--out", out, *QUICK]
    result = run(*call, "--scorer", "mildly:decide")
    assert result.code == 0, result.err
    report = json.loads((out / "report.json").read_text())
    assert report["scorers"]["counted"] == "mildly:decide"
    assert report["rates"]["harmful"]["base"]["rate"] == 1
    assert {"mildly:decide", "whole refusal", "phrases"} <= set(report["scorers"]["verdicts"])


@pytest.mark.slow
def test_files_of_prompts_for_an_organism(run: Run, tmp_path: Path) -> None:
    """They are prompts of a user: equalised, split by file, without whole refusals known."""
    call: list[str | Path] = []
    for label in ("harmful", "harmless"):
        for split in ("train", "test"):
            texts = [p.text for p in organisms.prompts("chat", split)[label]]  # type: ignore[arg-type]
            call += [f"--{label}", listed(tmp_path / f"{label}-{split}.txt", texts[:40])]
    texts = [p.text for p in organisms.prompts("chat", "test")["alarming"]]
    call += ["--over-refusal", listed(tmp_path / "alarming.txt", texts[:20])]
    out = tmp_path / "out"
    result = run("refusal", "organism:chat", *call, "--out", out, *QUICK)
    assert result.code == 0, result.err
    report = json.loads((out / "report.json").read_text())
    assert report["scorers"]["counted"] == "phrases"
    assert not any("same sources" in caveat for caveat in report["caveats"])
    assert report["surface"]["length_auroc"][1] == 0.5
    assert report["rates"]["harmful"]["base"]["rate"] >= 0.9
