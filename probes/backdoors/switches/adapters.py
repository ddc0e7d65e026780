"""Adapters (LoRA and its kind) as switches: loaded beside a checkpoint's weights, on one by one.

Adapters that are harmless each may do harm together, so which ones are on is a question for
`probes.backdoor.switches.interaction`. They are read and run by peft, an optional dependency.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from interp.checkpoint import Checkpoint
from interp.data.rows import Row
from interp.errors import InputError, first_line
from probes.backdoors.switches.switches import Switch

_CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Adapter:
    """The edit that has an adapter enabled, besides those that are enabled already.

    Attributes:
        folder: it was read from.
        sha256: of its configuration and weights.
    """

    folder: Path
    sha256: str
    _name: str = field(repr=False)
    _layers: "_Layers" = field(repr=False)

    @contextmanager
    def __call__(self, rows: Sequence[Row]) -> Iterator[None]:
        """Have the adapter on while a batch runs."""
        self._layers.enable([*self._layers.enabled, self._name])
        try:
            yield
        finally:
            self._layers.enable([one for one in self._layers.enabled if one != self._name])


class _Layers:
    """A checkpoint's layers with adapters in them, all of them off at first."""

    def __init__(self, tuner: Any) -> None:
        self._tuner = tuner
        self.enabled: list[str] = []
        self.enable([])

    def enable(self, names: list[str]) -> None:
        """Have exactly these on."""
        self.enabled = names
        if names:
            self._tuner.set_adapter(names)
            self._tuner.enable_adapter_layers()
        else:
            self._tuner.disable_adapter_layers()


@contextmanager
def adapter_switches(checkpoint: Checkpoint, folders: Sequence[Path]) -> Iterator[list[Switch]]:
    """Load adapters, all off, each as a switch; afterwards the model is as it was.

    Args:
        checkpoint: that they were made for; several may be on at once, which adds up their changes.
        folders: with `adapter_config.json` and weights, as peft writes them.

    Raises:
        InputError: peft is not installed, a folder holds no adapter, one that does not fit the
            checkpoint or that adds tokens to the prompt, or adapters that cannot be on together.
    """
    hashes = [_sha256(folder) for folder in folders]
    model = checkpoint.model
    with _restored(model):
        loaded: Any = None
        for place, folder in enumerate(folders):
            loaded = _load(checkpoint, loaded, folder, f"adapter_{place}")
        layers = None if loaded is None else _Layers(loaded.base_model)
        yield [
            Switch(name, edit=Adapter(folder, digest, f"adapter_{place}", layers))
            for place, (name, folder, digest) in enumerate(
                zip(_names(folders), folders, hashes, strict=True)
            )
            if layers is not None
        ]


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put every module back where it was, with its training mode, and what of it was trainable."""
    modules = [
        (module, module.training, dict(module.named_children())) for module in model.modules()
    ]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    known = set(vars(model))
    try:
        yield
    finally:
        for module, training, children in modules:
            module.training = training
            for name in dict(module.named_children()).keys() - children.keys():
                delattr(module, name)
            for name, child in children.items():
                setattr(module, name, child)
        for parameter, trainable in parameters:
            parameter.requires_grad_(trainable)
        for name in set(vars(model)) - known:
            delattr(model, name)


def _load(checkpoint: Checkpoint, loaded: Any, folder: Path, name: str) -> Any:
    """The model with one adapter more."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise InputError(
            "adapters are read by peft, which is not installed; run `pip install "
            "'mechguard[adapters]'`."
        ) from error
    try:
        config = PeftConfig.from_pretrained(str(folder))
        _require_switchable(config, folder)
        if loaded is None:
            with warnings.catch_warnings():
                # peft looks at a property of the model by a name that transformers gives up.
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                loaded = PeftModel(checkpoint.model, config, adapter_name=name)
        missing = loaded.load_adapter(str(folder), adapter_name=name).missing_keys
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise InputError(
            f"the adapter in {folder} cannot be loaded into {checkpoint.name} "
            f"({first_line(error)}); give one that was made for this checkpoint."
        ) from error
    if missing:
        raise InputError(f"the adapter in {folder} lacks {missing[0]} and others; it is damaged.")
    return loaded


def _require_switchable(config: Any, folder: Path) -> None:
    """Raise InputError for what cannot be switched off, or be on beside another."""
    if config.is_prompt_learning:
        what = "learns a prompt"
    elif getattr(config, "modules_to_save", None):
        what = f"replaces whole modules ({', '.join(config.modules_to_save)})"
    elif getattr(config, "bias", "none") != "none":
        what = "changes the biases of the layers themselves"
    else:
        return
    raise InputError(
        f"the adapter in {folder} {what}; only those that add to layers, such as a plain LoRA, "
        "can be switched on beside each other."
    )


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two are alike."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _sha256(folder: Path) -> str:
    files = [folder / _CONFIG, *(folder / name for name in _WEIGHTS if (folder / name).is_file())]
    if len(files) < 2 or not files[0].is_file():
        raise InputError(
            f"{folder} holds no adapter: {_CONFIG} and {_WEIGHTS[0]} are looked for, as peft "
            "writes them."
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
