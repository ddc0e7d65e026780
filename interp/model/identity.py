"""What a checkpoint is: weights, resolved config, tokenizer, chat template, dtype and adapter.

Artefacts are bound to an identity, and a stopped run goes on only on the same one.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from interp.errors import InputError
from interp.model.weights import WeightDigests, weight_digests

# Fields that change no forward pass: names, tokens, what is returned, training, the kernel.
_NO_PART = (
    *("architectures", "transformers_version", "dtype", "torch_dtype", "auto_map"),
    *(
        "id2label",
        "label2id",
        "problem_type",
        "num_labels",
        "task_specific_params",
        "finetuning_task",
    ),
    *("initializer_range", "use_cache", "return_dict", "pretraining_tp", "tokenizer_class"),
    *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
    *("classifier_dropout", "embedding_dropout", "hidden_dropout_prob", "dropout"),
    *("attention_probs_dropout_prob", "output_router_logits", "router_aux_loss_coef"),
    *("chunk_size_feed_forward", "is_encoder_decoder", "add_cross_attention"),
)
_TOKENIZER_OPTIONS = ("add_bos_token", "add_eos_token", "add_prefix_space", "legacy")
_TOKENIZER_SWITCHES = ("clean_up_tokenization_spaces", "split_special_tokens")  # off by default
_DIGITS = 16

Scalar = str | int | float | bool
Config = Mapping[str, Scalar]


@dataclass(frozen=True)
class Identity:
    """What an artefact is bound to, and a stopped run depends on.

    Attributes:
        weights: SHA-256 over names, dtypes, shapes and every byte of the weights.
        rounded: SHA-256 of an even sample of them, rounded to bfloat16 and float16.
        config: fields of the resolved config that change the forward pass, by dotted name.
        tokenizer: SHA-256 over vocabulary, merges, normalisation and special tokens.
        template: SHA-256 of the chat template.
        dtype: of the weights.
        adapter: SHA-256 over the weights and settings of adapters in force.
    """

    weights: str
    rounded: Mapping[str, str]
    config: Config
    tokenizer: str | None
    template: str | None
    dtype: str
    adapter: str | None

    @property
    def digest(self) -> str:
        """SHA-256 over all parts, 16 hex digits; `rounded` follows from the weights."""
        parts = {name: part for name, part in asdict(self).items() if name != "rounded"}
        return _digest(json.dumps(parts, sort_keys=True))[:_DIGITS]

    @property
    def tokenizer_hash(self) -> str | None:
        """SHA-256 over tokenizer and chat template, 16 hex digits; None without a tokenizer."""
        return _joined(self.tokenizer, self.template)

    def as_json(self) -> dict[str, Any]:
        """The same as a mapping of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Identity":
        """The identity that `as_json` gave.

        Raises:
            InputError: a field is missing or of a wrong type.
        """
        known: dict[str, Any] = {field.name: given.get(field.name) for field in fields(cls)}
        texts = [known["weights"], known["dtype"]]
        optional = [known["tokenizer"], known["template"], known["adapter"]]
        mappings = isinstance(known["config"], Mapping) and isinstance(known["rounded"], Mapping)
        if (
            not mappings
            or not all(isinstance(one, str) for one in texts)
            or not all(one is None or isinstance(one, str) for one in optional)
        ):
            raise InputError(
                "the identity of a checkpoint needs weights, rounded, config, tokenizer, template, "
                "dtype and adapter."
            )
        return cls(**known)


def identity_of(model: nn.Module, tokenizer: Any, dtype: str) -> Identity:
    """The identity of a model with its tokenizer, as they are now.

    Args:
        model: of transformers.
        tokenizer: its, if any.
        dtype: of its embedding.

    Raises:
        InputError: a weight has no values.
    """
    digests: WeightDigests = weight_digests(model)
    return Identity(
        weights=digests.exact,
        rounded=dict(digests.rounded),
        config=effective_config(model),
        tokenizer=_tokenizer_digest(tokenizer),
        template=_template_digest(tokenizer),
        dtype=dtype,
        adapter=digests.adapter,
    )


def tokenizer_hash(tokenizer: Any) -> str | None:
    """SHA-256 over a tokenizer and its chat template, 16 hex digits; None without a tokenizer."""
    return _joined(_tokenizer_digest(tokenizer), _template_digest(tokenizer))


def _joined(tokenizer: str | None, template: str | None) -> str | None:
    return None if tokenizer is None else _digest(f"{tokenizer} {template}")[:_DIGITS]


def differences(there: Identity, here: Identity) -> dict[str, str]:
    """What differs, by part (`weights`, `config`, …), each in words; empty if nothing does.

    Args:
        there: of what was made before, such as an artefact.
        here: of what it is to be used on.
    """
    found: dict[str, str] = {}
    if there.weights != here.weights:
        if _same_but_dtype(there, here):
            found["dtype"] = f"the same weights in {here.dtype} here, in {there.dtype} there"
        else:
            found["weights"] = f"weights {here.weights[:8]} here, {there.weights[:8]} there"
    if there.dtype != here.dtype and "dtype" not in found:
        found["dtype"] = f"{here.dtype} here, {there.dtype} there"
    if changed := _config_differences(there.config, here.config):
        found["config"] = ", ".join(changed)
    for part, what in (("tokenizer", "tokenizer"), ("template", "chat template")):
        if getattr(there, part) != getattr(here, part):
            found[part] = _present(what, getattr(here, part), getattr(there, part))
    if there.adapter != here.adapter:
        found["adapter"] = _present("adapter", here.adapter, there.adapter)
    return found


def effective_config(model: nn.Module) -> dict[str, Scalar]:
    """Fields of a model's config that change its forward pass, by dotted name.

    A field that is None is left out: versions of transformers differ in which of these they list.
    """
    config: Any = model.config
    return {"class": type(model).__name__, **dict(_flat(config.to_dict(), ""))}


def _flat(value: Any, name: str) -> list[tuple[str, Scalar]]:
    if isinstance(value, Mapping):
        begin = f"{name}." if name else ""
        kept = [key for key in value if _counts(str(key))]
        return [one for key in sorted(kept, key=str) for one in _flat(value[key], f"{begin}{key}")]
    if value is None:
        return []
    plain = _whole(value)
    if isinstance(plain, (str, bool, int, float)):
        return [(name, plain)]
    return [(name, json.dumps(plain, default=str, sort_keys=True))]


def _whole(value: Any) -> Any:
    """A value in which whole numbers are integers: configs spell 10000.0 as 10000 too."""
    if isinstance(value, (list, tuple)):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _counts(key: str) -> bool:
    ignored = key in _NO_PART or key.startswith(("_", "output_")) or key.endswith("token_id")
    return not ignored


def _config_differences(there: Config, here: Config) -> list[str]:
    changed = []
    for name in dict.fromkeys([*here, *there]):
        if here.get(name) != there.get(name):
            last = name.rpartition(".")[2]
            changed.append(f"{last} {_shown(here.get(name))} here, {_shown(there.get(name))} there")
    return changed


def _shown(value: Scalar | None) -> str:
    if value is None:
        return "absent"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _present(what: str, here: str | None, there: str | None) -> str:
    if here is None or there is None:
        return f"no {what} here, one there" if here is None else f"{what} here, none there"
    return f"another {what}"


def _same_but_dtype(there: Identity, here: Identity) -> bool:
    """Whether the weights agree where both are rounded to the coarser of their dtypes."""
    coarser = {there.dtype, here.dtype} & set(there.rounded) & set(here.rounded)
    return there.dtype != here.dtype and any(
        there.rounded[dtype] == here.rounded[dtype] for dtype in coarser
    )


def _tokenizer_digest(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Truncation and padding stand first, and change with how the tokenizer was last called.
        whole = backend.to_str()
        text = whole[whole.find('"added_tokens"') :]
    else:
        text = f"{type(tokenizer).__name__}{_vocabulary(tokenizer)}"
    options = {name: getattr(tokenizer, name, None) for name in _TOKENIZER_OPTIONS}
    options |= {name: True for name in _TOKENIZER_SWITCHES if getattr(tokenizer, name, False)}
    special = json.dumps(tokenizer.special_tokens_map, default=str, sort_keys=True)
    return _digest(f"{text}{special}{options}")


def _vocabulary(tokenizer: Any) -> str:
    """Words of a tokenizer that is written in Python, with its files: merges, or scores of pieces.

    Such a tokenizer shows these only by writing them.
    """
    written = []
    with tempfile.TemporaryDirectory() as folder:
        with suppress(NotImplementedError):
            tokenizer.save_vocabulary(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                written.append((path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
    return json.dumps([sorted(tokenizer.get_vocab().items()), written])


def _template_digest(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else _digest(json.dumps(template, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
