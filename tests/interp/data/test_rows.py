"""From files to rows: every format, every fault, and the rules of BOS."""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from families import tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import interp
from interp.checkpoint import Checkpoint
from interp.data.rows import (
    Texts,
    as_texts,
    bos_prefix,
    id_rows,
    read_texts,
    text_rows,
)
from interp.errors import InputError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "[gMASK]", *"abcdefghijklmnopqrstuvwxyz"]
BOS, EOS = WORDS.index("<s>"), WORDS.index("</s>")
MASK = WORDS.index("[gMASK]")


def ids_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def tokenizer(
    before: str = "<s>", after: str = "", bos: str | None = "<s>", **kwargs: Any
) -> PreTrainedTokenizerFast:
    """One id for each letter; `before` and `after` are put around every text by itself."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(WORDS[:5])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{before} $A {after}".strip(),
        special_tokens=[(word, i) for i, word in enumerate(WORDS[:5])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token="</s>", pad_token="<pad>", **kwargs
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("gpt2")


@pytest.fixture
def plain(model: Any) -> Checkpoint:
    return interp.load(model, tokenizer=tokenizer())


def a_file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- formats ---------------------------------------------------------------------------------

DOCUMENTS = ("a b c", "line one\nline two", "NA", 'said "x, y"')


def _write(folder: Path, suffix: str) -> Path:
    path = folder / f"corpus{suffix}"
    table = pd.DataFrame({"id": range(len(DOCUMENTS)), "text": DOCUMENTS})
    if suffix == ".txt":
        return a_file(folder, path.name, "\n\n" + "\n \t\n\n".join(DOCUMENTS) + "\n")
    if suffix == ".jsonl":
        lines = [json.dumps({"text": text, "n": 1}) for text in DOCUMENTS]
        return a_file(folder, path.name, "\n\n".join(lines))
    if suffix == ".json":
        return a_file(folder, path.name, json.dumps(DOCUMENTS))
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_documents_in_order(suffix: str, tmp_path: Path) -> None:
    path = _write(tmp_path, suffix)
    texts = read_texts(path)
    assert tuple(text.strip() for text in texts.documents) == DOCUMENTS
    assert texts.name == "corpus"
    assert texts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_texts(str(path)) == texts


def test_blank_documents_are_no_documents(tmp_path: Path) -> None:
    path = a_file(tmp_path, "x.json", json.dumps(["", "a", " \n", "b"]))
    assert read_texts(path).documents == ("a", "b")
    path = a_file(tmp_path, "x.csv", 'n,text\n1,a\n2\n3,""\n4,null\n')
    assert read_texts(path).documents == ("a", "null")


def test_line_separators_inside_of_a_json_string_part_no_lines(tmp_path: Path) -> None:
    documents = ("a\u2028b", "c\u0085d", "e")
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in documents]
    assert read_texts(a_file(tmp_path, "x.jsonl", "\r\n".join(lines))).documents == documents


@pytest.mark.parametrize("name", ["x.txt", "x.json", "x.csv"])
def test_a_byte_order_mark_is_no_text(name: str, tmp_path: Path) -> None:
    content = {"x.txt": "a b", "x.json": '["a b"]', "x.csv": "text\na b\n"}[name]
    path = a_file(tmp_path, name, b"\xef\xbb\xbf" + content.encode())
    assert read_texts(path).documents == ("a b",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", '["a", '),
        ("x.json", '{"text": "a"}'),
        ("x.json", '["a", 3]'),
        ("x.json", '["\\ud800"]'),
        ("x.jsonl", '{"text": "a"}\n{"text": '),
        ("x.jsonl", '{"body": "a"}'),
        ("x.jsonl", '["a"]'),
        ("x.jsonl", '{"text": null}'),
        ("x.csv", "body\na\n"),
        ("x.csv", ""),
        ("x.csv", 'text\n"a\n'),
        ("x.parquet", "no parquet"),
        ("x.txt", b"\xff\xfe\x00"),
    ],
)
def test_malformed_files_are_refused(name: str, content: str | bytes, tmp_path: Path) -> None:
    path = a_file(tmp_path, name, content)
    with pytest.raises(InputError, match=f"{name} is not readable as .*`text`"):
        read_texts(path)


def test_a_missing_value_of_a_parquet_file_is_not_the_text_none(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pd.DataFrame({"text": ["a", None]}).to_parquet(path)
    with pytest.raises(InputError, match="a text is a"):
        read_texts(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.txt", ""), ("x.txt", " \n\n\t\n"), ("x.jsonl", ""), ("x.json", "[]"), ("x.csv", "text\n")],
)
def test_an_empty_file_is_refused(name: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no text"):
        read_texts(a_file(tmp_path, name, content))


def test_missing_files_and_unknown_suffixes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl does not exist"):
        read_texts(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"\.txt, \.jsonl, .*not '\.tsv'"):
        read_texts(a_file(tmp_path, "x.tsv", "a"))
    with pytest.raises(InputError, match=r"texts come as .*not ''"):
        read_texts(tmp_path)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(InputError, match=r"folder\.txt is not readable"):
        read_texts(tmp_path / "folder.txt")


# --- data sets -------------------------------------------------------------------------------


def test_a_data_set_that_cannot_be_loaded_is_refused_at_once() -> None:
    begun = time.perf_counter()
    with pytest.raises(InputError, match="neither a file nor a data set"):
        read_texts("nobody/no-such-data:train")
    assert time.perf_counter() - begun < 30


def test_a_data_set_is_read_by_name_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Library:
        @staticmethod
        def load_dataset(name: str, split: str) -> dict[str, list[Any]]:
            asked.append((name, split))
            return {"text": ["a", "b"]} if name == "fine" else {"text": ["a", 3]}

    monkeypatch.setitem(sys.modules, "datasets", Library)
    texts = read_texts("fine:validation")
    assert texts.documents == ("a", "b") and texts.name == "fine:validation"
    assert read_texts("fine").documents == ("a", "b")
    assert asked == [("fine", "validation"), ("fine", "train")]
    with pytest.raises(InputError, match="neither a file nor a data set with a column `text`"):
        read_texts("numbers")


def test_without_the_datasets_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"mechguard\[datasets\]"):
        read_texts("some/name")


def test_as_texts_takes_strings_alone() -> None:
    texts = as_texts("mine", (text for text in ("a", "b")))
    assert texts.documents == ("a", "b")
    assert texts.sha256 != as_texts("mine", ["a b"]).sha256
    broken: list[Any] = [3, "\ud800"]
    for document in broken:
        with pytest.raises(InputError, match="mine: documents are strings"):
            as_texts("mine", iter(["a", document]))


# --- rows ------------------------------------------------------------------------------------


def test_rows_are_the_first_tokens_of_each_document_in_file_order(plain: Checkpoint) -> None:
    texts = [as_texts("one", ["a b c d e", "f g", "h i j k"]), as_texts("two", ["z y x w"])]
    rows = text_rows(plain, texts, length=4)
    assert [list(row.ids) for row in rows.rows] == [
        ids_of("<s> a b c"),
        ids_of("<s> h i j"),
        ids_of("<s> z y x"),
    ]
    assert [row.index for row in rows.rows] == [0, 1, 2] and len(rows) == 3
    assert [row.domain for row in rows.rows] == ["one", "one", "two"]
    assert rows.domains == ("one", "two") and rows.bos
    assert rows.skipped == {"one": 1, "two": 0}
    assert rows.rows[0].segments == {"bos": (0, 1), "text": (1, 4)}


def test_max_sequences_counts_rows_and_limit_counts_documents(plain: Checkpoint) -> None:
    texts = [as_texts("one", ["a", "b c d", "e f g", "h i j"]), as_texts("two", ["k l m"] * 3)]
    rows = text_rows(plain, texts, length=3, max_sequences=2)
    assert [row.ids[1] for row in rows.rows] == ids_of("b e k k")
    assert rows.skipped == {"one": 1, "two": 0}
    rows = text_rows(plain, texts, length=3, limit=2)
    assert [row.ids[1] for row in rows.rows] == ids_of("b k k")


def test_the_hash_of_rows_depends_on_ids_order_and_domain(plain: Checkpoint) -> None:
    def rows(*texts: Texts) -> str:
        return text_rows(plain, list(texts), length=3).sha256

    first = rows(as_texts("one", ["a b c", "d e f"]))
    assert first == rows(as_texts("one", ["a b z", "d e f"]))
    assert len({first, rows(as_texts("one", ["d e f", "a b c"]))}) == 2
    assert len({first, rows(as_texts("two", ["a b c", "d e f"]))}) == 2


def test_no_document_long_enough_is_an_error_with_the_count(plain: Checkpoint) -> None:
    with pytest.raises(InputError, match="none of the 2 documents has 5 tokens"):
        text_rows(plain, [as_texts("one", ["a b", "c d e"])], length=5)


def test_the_text_is_cut_at_its_end_whatever_the_tokenizer_prefers(model: Any) -> None:
    left = tokenizer(truncation_side="left", padding_side="left", model_max_length=4)
    rows = text_rows(interp.load(model, tokenizer=left), [as_texts("x", ["a b c d e f"])], length=3)
    assert list(rows.rows[0].ids) == ids_of("<s> a b")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"length": 1}, "length of 1 leaves no query"),
        ({"length": 257}, "257 tokens do not fit .* built for 256"),
        ({"length": 3, "max_sequences": 0}, "--max-sequences 0 leaves no row"),
    ],
)
def test_infeasible_requests(plain: Checkpoint, request_: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        text_rows(plain, [as_texts("one", ["a b c"])], **request_)


def test_two_domains_of_one_name_are_refused(plain: Checkpoint) -> None:
    twins = [as_texts("train", ["a b c"]), as_texts("train", ["d e f"])]
    with pytest.raises(InputError, match="two domains have the same name"):
        text_rows(plain, twins, length=3)


def test_a_model_without_tokenizer_needs_ids(model: Any) -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        text_rows(interp.load(model), [as_texts("one", ["a b"])], length=2)


# --- BOS -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "bos", "prefix"),
    [
        ({}, None, "<s>"),
        ({}, True, "<s>"),
        ({}, False, ""),
        ({"before": "", "after": "</s>"}, None, ""),
        ({"before": "", "after": "</s>"}, True, "<s>"),
        ({"after": "</s>"}, None, "<s>"),
        ({"before": "[gMASK] <s>"}, None, "[gMASK] <s>"),
        ({"before": "[gMASK] <s>"}, True, "[gMASK] <s>"),
        ({"before": "", "bos": None}, None, ""),
    ],
)
def test_the_prefix_of_a_text(
    model: Any, settings: dict[str, Any], bos: bool | None, prefix: str
) -> None:
    checkpoint = interp.load(model, tokenizer=tokenizer(**settings))
    assert bos_prefix(checkpoint, bos) == ids_of(prefix)
    rows = text_rows(checkpoint, [as_texts("one", ["a b c d"])], length=4, bos=bos)
    # An EOS that the tokenizer appends never gets into a row.
    assert list(rows.rows[0].ids) == ids_of(f"{prefix} a b c d")[:4]
    assert rows.bos == bool(prefix)


def test_bos_flags_that_cannot_be_followed(model: Any) -> None:
    without = interp.load(model, tokenizer=tokenizer(before="", bos=None))
    with pytest.raises(InputError, match=r"--bos was asked for, .* has no BOS token"):
        bos_prefix(without, True)
    silent = interp.load(model, tokenizer=tokenizer(before=""))
    with pytest.raises(InputError, match=r"--no-bos was asked for, .* adds no BOS"):
        bos_prefix(silent, False)


def test_a_second_bos_is_refused(plain: Checkpoint) -> None:
    texts = [as_texts("chats", ["a b c d", "<s> a b c d"])]
    with pytest.raises(InputError, match=r"chats already starts with '<s>'.*--no-bos"):
        text_rows(plain, texts, length=4)
    rows = text_rows(plain, texts, length=4, bos=False)
    assert list(rows.rows[1].ids) == ids_of("<s> a b c")


def test_a_prefix_that_fills_the_row_is_refused(model: Any) -> None:
    checkpoint = interp.load(model, tokenizer=tokenizer(before="[gMASK] <s>"))
    with pytest.raises(InputError, match="no more than the 2 tokens"):
        text_rows(checkpoint, [as_texts("one", ["a b c"])], length=2)


# --- ids -------------------------------------------------------------------------------------


def test_id_rows_keep_order_and_domains(plain: Checkpoint) -> None:
    rows = id_rows(plain, {"one": [[BOS, 5, 6], [BOS, 7]], "two": [(BOS, 8)]})
    assert [row.ids for row in rows.rows] == [(BOS, 5, 6), (BOS, 7), (BOS, 8)]
    assert [row.index for row in rows.rows] == [0, 1, 2]
    assert rows.domains == ("one", "two") and rows.bos
    assert rows.rows[0].segments == {"text": (0, 3)}
    assert not id_rows(plain, {"one": [[BOS, 5], [6, 7]]}).bos


def test_id_rows_without_a_tokenizer_have_no_bos(model: Any) -> None:
    assert not id_rows(interp.load(model), {"one": [[1, 5]]}).bos


@pytest.mark.parametrize("ids", [[3], [], [3, -1], [3, 97]])
def test_id_rows_refuses_ids_outside_of_the_vocabulary(plain: Checkpoint, ids: list[int]) -> None:
    with pytest.raises(InputError, match=r"row 1 \(one\) needs at least 2 token ids from 0 to 96"):
        id_rows(plain, {"one": [[3, 4], ids]})


def test_id_rows_refuses_rows_beyond_the_context_and_no_rows(plain: Checkpoint) -> None:
    with pytest.raises(InputError, match="257 tokens do not fit"):
        id_rows(plain, {"one": [[3] * 257]})
    for empty in ({}, {"one": []}):
        with pytest.raises(InputError, match="no rows of token ids"):
            id_rows(plain, empty)


def test_real_tokenizers(reference: Callable[[str], Path]) -> None:
    texts = [read_texts(reference("text/tinystories_1000.json"))]
    checkpoint = interp.load(reference("models/stories260K-hf"), device="cpu")
    assert len(texts[0].documents) == 1000
    rows = text_rows(checkpoint, texts, length=64, max_sequences=5)
    assert rows.bos and all(len(row) == 64 and row.ids[0] == 1 for row in rows.rows)
    without = text_rows(checkpoint, texts, length=64, max_sequences=5, bos=False)
    assert [row.ids[:63] for row in without.rows] == [row.ids[1:] for row in rows.rows]
    with pytest.raises(InputError, match="513 tokens do not fit"):
        text_rows(checkpoint, texts, length=513)
