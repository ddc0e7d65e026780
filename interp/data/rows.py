"""From files to rows of token ids.

One row per document: its first `length` tokens, BOS counted when on. Shorter documents are skipped
and counted, because every sink measure depends on the length (`Sink_1` of uniform attention is
H_T/T).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.data.sources import csv_table, from_data_set, parquet_table
from interp.errors import InputError, first_line
from interp.model.loaded import LoadedModel, vocabulary_size
from interp.reading import decoded, exists, json_lines, parse_json, read_bytes

_SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Texts:
    """Documents of one domain, in file order; `sha256` is of the file, or of the joined text."""

    name: str
    sha256: str
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One sequence of token ids; `segments` maps a segment to its [start, stop)."""

    index: int
    ids: tuple[int, ...]
    domain: str
    segments: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Rows:
    """All rows of a run; `bos`: they start with BOS; `skipped` counts documents too short."""

    rows: tuple[Row, ...]
    bos: bool
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in order of appearance."""
        return tuple(dict.fromkeys(row.domain for row in self.rows))

    @property
    def sha256(self) -> str:
        """Of all token ids in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(f"{row.index}:{row.domain}:{','.join(map(str, row.ids))};".encode())
        return digest.hexdigest()


def read_texts(source: str | Path) -> Texts:
    """Read documents from a file, or from a data set of the `datasets` library.

    `.txt` holds documents parted by blank lines, `.jsonl` objects with `text`, `.json` a list of
    strings, `.csv` and `.parquet` a column `text`. Anything else is taken for the name of a data
    set, `NAME` or `NAME:SPLIT`, with a column `text`.

    Raises:
        InputError: the file is missing, empty or malformed.
    """
    path = Path(source)
    if not exists(path):
        if path.suffix in _SUFFIXES:
            raise InputError(f"{source} does not exist.")
        return _from_datasets(str(source))
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{source}: texts come as {', '.join(_SUFFIXES)}, not {path.suffix!r}.")
    try:
        documents = [text for text in _parse(path) if text.strip()]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{source} is not readable as {path.suffix} texts ({first_line(error)}); .jsonl, .csv "
            "and .parquet need a field `text`, .json a list of strings."
        ) from error
    if not documents:
        raise InputError(f"{source} holds no text.")
    digest = hashlib.sha256(read_bytes(path)).hexdigest()
    return Texts(path.stem, digest, tuple(documents))


def as_texts(name: str, documents: Iterable[str]) -> Texts:
    """Wrap documents that are already in memory.

    Raises:
        InputError: one of them is no text.
    """
    try:
        kept = tuple(_string(document) for document in documents)
    except ValueError as error:
        raise InputError(f"{name}: documents are strings of valid Unicode ({error}).") from error
    return Texts(name, hashlib.sha256("\0".join(kept).encode()).hexdigest(), kept)


def _parse(path: Path) -> list[str]:
    if path.suffix in (".parquet", ".csv"):
        read = parquet_table(path) if path.suffix == ".parquet" else csv_table(path)
        return [_string(text) for text in read["text"]]
    text = decoded(read_bytes(path))
    if path.suffix == ".txt":
        return re.split(r"\n\s*\n", text)
    if path.suffix == ".jsonl":
        return [_text(entry, number) for number, entry in json_lines(text)]
    if path.suffix == ".json":
        loaded = parse_json(text)
        if not isinstance(loaded, list):
            raise ValueError("the top level is no list")
        return [_string(item) for item in loaded]
    raise ValueError(f"{path.suffix} is not read")


def _text(entry: Any, line: int) -> str:
    """The text of an entry of JSONL."""
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise ValueError(f"line {line} has no string `text`")
    return _string(entry["text"])


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is a {type(value).__name__}")
    value.encode()  # a lone surrogate is a ValueError here, and a crash inside a tokenizer
    return value


def _from_datasets(source: str) -> Texts:
    return from_data_set(
        source,
        lambda loaded: as_texts(source, loaded["text"]),
        "data set with a column `text`",
    )


def text_rows(
    checkpoint: LoadedModel,
    texts: Sequence[Texts],
    *,
    length: int,
    max_sequences: int = 100,
    bos: bool | None = None,
    limit: int | None = None,
) -> Rows:
    """Cut the first `length` tokens off each document.

    Args:
        checkpoint: whose tokenizer is used.
        texts: one entry a domain.
        length: tokens in a row, BOS included when on.
        max_sequences: rows a domain at most.
        bos: put BOS in front; None does what the tokenizer does by itself.
        limit: documents of each domain to look at, at most.

    Raises:
        InputError: no document is long enough, or BOS cannot be set as asked.
    """
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        raise InputError(
            f"{checkpoint.name} has no tokenizer; give rows of token ids instead of texts."
        )
    prefix = bos_prefix(checkpoint, bos)
    _require_feasible(checkpoint, texts, length, len(prefix), max_sequences)
    rows: list[Row] = []
    skipped: dict[str, int] = {}
    for domain in texts:
        kept = 0
        skipped[domain.name] = 0
        for document in domain.documents[:limit]:
            if kept == max_sequences:
                break
            ids = _first_ids(tokenizer, document, length, prefix, domain.name)
            require_embedded(checkpoint, ids)
            if len(ids) < length:
                skipped[domain.name] += 1
                continue
            segments = {"text": (len(prefix), length)}
            if prefix:
                segments["bos"] = (0, len(prefix))
            rows.append(Row(len(rows), tuple(ids), domain.name, segments))
            kept += 1
    if not rows:
        raise InputError(
            f"none of the {sum(skipped.values())} documents has {length} tokens; give longer texts "
            "or a smaller --length."
        )
    return Rows(tuple(rows), bool(prefix), skipped)


def _require_feasible(
    checkpoint: LoadedModel, texts: Sequence[Texts], length: int, prefix: int, max_sequences: int
) -> None:
    if length < 2:
        raise InputError(f"a length of {length} leaves no query to look back; give 2 or more.")
    if length <= prefix:
        raise InputError(
            f"a length of {length} holds no more than the {prefix} tokens that the tokenizer puts "
            "before a text; give a greater --length."
        )
    if max_sequences < 1:
        raise InputError(f"--max-sequences {max_sequences} leaves no row; give 1 or more.")
    names = [domain.name for domain in texts]
    if len(set(names)) < len(names):
        raise InputError(
            f"two domains have the same name ({', '.join(names)}), so their rows could not be told "
            "apart; rename one of the files."
        )
    _require_context(checkpoint, length)


def _first_ids(
    tokenizer: Any, document: str, length: int, prefix: list[int], domain: str
) -> list[int]:
    """The prefix and the document's tokens, `length` in all at most."""
    try:
        # Cut below, because a tokenizer may be set to truncate from the left.
        ids: list[int] = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:
        # A word-level vocabulary without an unknown token raises a bare Exception from Rust.
        raise InputError(
            f"the tokenizer cannot encode a document of {domain} ({first_line(error)}); an "
            "organism reads only words of its own grammar."
        ) from error
    if prefix and ids[: len(prefix)] == prefix:
        raise InputError(
            f"a document of {domain} already starts with {tokenizer.decode(prefix)!r}; strip it, "
            "or pass --no-bos, so that BOS does not stand twice."
        )
    return prefix + ids[: length - len(prefix)]


def require_embedded(checkpoint: LoadedModel, ids: Sequence[int]) -> None:
    """Check that the embedding has every id: a token may have been added to a tokenizer alone.

    Raises:
        InputError: it lacks one.
    """
    size = vocabulary_size(checkpoint)
    if ids and max(ids) >= size:
        tokenizer: Any = checkpoint.tokenizer
        shown = tokenizer.convert_ids_to_tokens(max(ids))
        raise InputError(
            f"the text holds {shown!r}, whose id {max(ids)} the embedding of {checkpoint.name} "
            f"lacks ({size} rows): the token was added to the tokenizer alone; leave it out of the "
            "text, or resize the embedding."
        )


def id_rows(checkpoint: LoadedModel, domains: Mapping[str, Sequence[Sequence[int]]]) -> Rows:
    """Rows from token ids, for a model without a tokenizer or ids made elsewhere.

    Raises:
        InputError: an id is outside of the vocabulary, or there is no row.
    """
    size = vocabulary_size(checkpoint)
    rows: list[Row] = []
    for domain, sequences in domains.items():
        for ids in sequences:
            if len(ids) < 2 or min(ids) < 0 or max(ids) >= size:
                raise InputError(
                    f"row {len(rows)} ({domain}) needs at least 2 token ids from 0 to {size - 1}."
                )
            _require_context(checkpoint, len(ids))
            rows.append(Row(len(rows), tuple(map(int, ids)), domain, {"text": (0, len(ids))}))
    if not rows:
        raise InputError("no rows of token ids were given.")
    first = {row.ids[0] for row in rows}
    bos = getattr(checkpoint.tokenizer, "bos_token_id", None)
    return Rows(tuple(rows), bos is not None and first == {bos})


def bos_prefix(checkpoint: LoadedModel, bos: bool | None) -> list[int]:
    """The special ids that stand before a text: the tokenizer's own, or as asked.

    Raises:
        InputError: BOS is wanted and there is none, or unwanted and the tokenizer adds none.
    """
    tokenizer: Any = checkpoint.tokenizer
    own = _own_prefix(tokenizer)
    if bos is None:
        return own
    if bos:
        if not own and tokenizer.bos_token_id is None:
            raise InputError(
                f"--bos was asked for, but the tokenizer of {checkpoint.name} has no BOS token; "
                "leave the flag out."
            )
        return own or [tokenizer.bos_token_id]
    if not own:
        raise InputError(
            f"--no-bos was asked for, but the tokenizer of {checkpoint.name} adds no BOS by "
            "itself; leave the flag out."
        )
    return []


def _own_prefix(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before a text by itself.

    Tried on a token that survives decoding and encoding: an arbitrary letter need not be in a
    word-level vocabulary.
    """
    special = set(tokenizer.all_special_ids)
    for token in range(len(tokenizer)):
        if token in special:
            continue
        text = tokenizer.decode([token])
        if tokenizer(text, add_special_tokens=False)["input_ids"] == [token]:
            full: list[int] = tokenizer(text)["input_ids"]
            return full[: full.index(token)]
    raise InputError("the tokenizer has no token that survives decoding and encoding.")


def _require_context(checkpoint: LoadedModel, length: int) -> None:
    context = checkpoint.anatomy.context
    if context is not None and length > context:
        raise InputError(
            f"{length} tokens do not fit {checkpoint.name}, which was built for {context}; give a "
            "smaller --length."
        )
