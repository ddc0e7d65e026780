"""What `fuzz.py` damages: files of every kind, and the public function that reads each."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuzz_mutations import edit_json, edit_json_line, lie, lie_in_collection

import interp
from analyses.report.folder import read_report
from interp import organisms
from interp.capture.prompt_states import prompt_rows
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, PromptSet, read_prompts
from interp.model.origin import origin
from interp.model.sites import Site
from interp.organisms.folders import read_truth
from probes.collections.collection import Collection, collect
from probes.collections.fit import fit_probe
from probes.collections.fitted_probe import FittedProbe
from probes.collections.plan import plan_collection
from probes.directions.directions import Direction
from probes.guards.guard import Guard
from steering.policy.export import export_policy
from steering.policy.importing import read_vectors
from steering.policy.policy import Policy
from steering.runtime.gates import AlwaysOpen, ControllerGate, CosineGate, Gate, LogisticGate

_ANY = ("fingerprint", "tokenizer_hash", "origin")
_LAYER = 1


@dataclass(frozen=True)
class Subject:
    """A kind of file.

    Attributes:
        name: in the table.
        ours: whether it carries our checksum.
        make: writes a good one into an empty folder.
        read: reads the folder, and returns what must not change silently.
        files: patterns of the files that are damaged.
        edit: a structured edit of one file, or of the folder; None for binary files of others.
        weight: share of the mutations.
    """

    name: str
    ours: bool
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    files: tuple[str, ...]
    edit: Callable[[random.Random, Path], None] | None = None
    weight: float = 1.0


def subjects() -> list[Subject]:
    """All of them, made on the chat organism."""
    made = _Made(interp.load("organism:chat"))
    return [*_artefacts(made), *_foreign(made), *_inputs(), *_models(made)]


def plain(value: Any) -> str:
    """A digest of a value: numbers to the bit, types and names."""
    return hashlib.sha256(repr(_plain(value)).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(raw).hexdigest()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tolist()
    if isinstance(value, pd.DataFrame):
        return value.to_csv()
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


class _Made:
    """The checkpoint, and good artefacts of it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.width = checkpoint.anatomy.width
        found = organisms.prompts("chat")
        self.harmful, self.harmless = (
            PromptSet(tuple(Prompt(one.messages, label, "chat") for one in found[label][:12]))
            for label in ("harmful", "harmless")
        )

    def vectors(self, count: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(count, self.width, generator=torch.Generator().manual_seed(seed))

    def policy(self, gate: Gate, **change: Any) -> Policy:
        sites = (Site("resid_post", _LAYER), Site("resid_post", _LAYER + 1))
        made = Policy("fuzzed", "actadd", sites, self.vectors(2), (1.0, 0.5), gate)
        return replace(made, **change).bound(self.checkpoint, seed=0)

    def gates(self) -> dict[str, Gate]:
        reads, width = [Site("resid_post", 0)], self.width
        torch.manual_seed(0)
        components = torch.linalg.qr(self.vectors(4, 3).T)[0].T.contiguous()
        return {
            "open": AlwaysOpen(),
            "logistic": LogisticGate(reads, self.vectors(1, 1), 0.5, 0.1),
            "cosine": CosineGate(reads, self.vectors(1, 2), 0.2),
            "controller": ControllerGate(reads, width, 2, 8, threshold=0.3),
            "compressed controller": ControllerGate(
                reads, width, 2, 8, centre=torch.zeros(width), components=components
            ),
        }

    def collected(self, folder: Path) -> Collection:
        prompts = self.harmful + self.harmless
        plan = plan_collection(
            self.checkpoint, prompts, site="resid_post", segment="last", layers=[0, 1]
        )
        return collect(self.checkpoint, plan, folder)


def _artefacts(made: _Made) -> list[Subject]:
    checkpoint = made.checkpoint

    def read_policy(folder: Path) -> Any:
        policy = Policy.load(folder, allow=_ANY)
        policy.require(checkpoint, allow=_ANY)
        assert repr(policy)
        states = torch.ones(2, len(policy.gate.reads), policy.width)
        opened = policy.gate(states)
        whole = policy._artifact()
        return whole.tensors, whole.meta, opened.strength, opened.weights

    found = [
        Subject(
            f"policy, {name} gate",
            True,
            lambda folder, gate=gate: _done(made.policy(gate).save(folder)),  # type: ignore[misc]
            read_policy,
            ("policy.safetensors",),
            lie,
        )
        for name, gate in made.gates().items()
    ]
    readers = made.policy(AlwaysOpen(), operator="map", readers=made.vectors(2, 4))
    found.append(
        Subject(
            "policy with readers",
            True,
            lambda folder: _done(readers.save(folder)),
            read_policy,
            ("policy.safetensors",),
            lie,
        )
    )
    return [*found, _guard(made), _probe(made), _direction(made), _collection(made)]


def _guard(made: _Made) -> Subject:
    guard = Guard.fit(made.checkpoint, made.harmful, made.harmless)
    guard = guard.calibrated(made.harmful, made.harmless)

    def read(folder: Path) -> Any:
        found = Guard.load(folder / "guard.safetensors", made.checkpoint, allow=_ANY)
        assert repr(found)
        parts = found.readout, found.threshold, found.platt, found.template, found.record
        return found.method, parts, found.judged(np.array([0.0, 1.0]))

    return Subject(
        "guard",
        True,
        lambda folder: _done(guard.save(folder / "guard.safetensors")),
        read,
        ("guard.safetensors",),
        lie,
        2.0,
    )


def _probe(made: _Made) -> Subject:
    import tempfile

    where = Path(tempfile.mkdtemp(prefix="fuzz-"))
    collection = made.collected(where / "acts")
    probe = fit_probe(collection, "label", positive="harmful", permutations=0)

    def read(folder: Path) -> Any:
        found = FittedProbe.load(folder / "probe.safetensors")
        assert repr(found)
        # A lie about layers or widths that are possible shows when it is used.
        scores = found.scores(collection, allow=_ANY)
        return found.coef, found.intercept, found.layers, found.trained, found.meta, scores

    return Subject(
        "probe",
        True,
        lambda folder: _done(probe.save(folder / "probe.safetensors")),
        read,
        ("probe.safetensors",),
        lie,
        2.0,
    )


def _direction(made: _Made) -> Subject:
    direction = Direction(
        vector=made.vectors(1)[0],
        site="resid_pre",
        layer=1,
        position=-1,
        segment="post_instruction",
        method="planted",
        residual_norm=4.0,
        meta={"origin": origin(made.checkpoint), "positive": 3},
    )

    def read(folder: Path) -> Any:
        found = Direction.load(folder / "d.safetensors", made.checkpoint, allow=_ANY)
        assert repr(found)
        return found.unit, found.describe()

    return Subject(
        "direction",
        True,
        lambda folder: _done(direction.save(folder / "d.safetensors")),
        read,
        ("d.safetensors",),
        lie,
        2.0,
    )


def _collection(made: _Made) -> Subject:
    def read(folder: Path) -> Any:
        found = Collection.open(folder)
        states = [found.tokens(layer) for layer in found.layers]
        return found.meta, found.table, states, found.prompt_keys(), found.column("label")

    return Subject(
        "collection",
        True,
        lambda folder: _done(made.collected(folder)),
        read,
        ("collection.json", "rows.csv", "*/index.json", "*/*.safetensors"),
        lie_in_collection,
        4.0,
    )


def _foreign(made: _Made) -> list[Subject]:
    policy = made.policy(AlwaysOpen())

    def read(name: str) -> Callable[[Path], Any]:
        def reader(folder: Path) -> Any:
            found = read_vectors(folder / name)
            assert found.unchecked
            return found.policy(made.checkpoint)._artifact().tensors, found.layers

        return reader

    def make_svec(folder: Path) -> None:
        directions = {str(n): made.vectors(1, n)[0].tolist() for n in (0, 1)}
        content = {"model_type": policy.meta["origin"]["model_type"], "directions": directions}
        (folder / "v.svec").write_text(json.dumps(content))

    def make_pt(folder: Path) -> None:
        candidates = made.vectors(6).reshape(2, 3, -1).double()
        torch.save(candidates, folder / "mean_diffs.pt")
        torch.save(candidates[-1, 2], folder / "direction.pt")
        (folder / "direction_metadata.json").write_text(json.dumps({"pos": -1, "layer": 2}))

    return [
        Subject(
            "GGUF control vector",
            False,
            lambda folder: _done(export_policy(policy, "gguf", folder / "v.gguf")),
            read("v.gguf"),
            ("v.gguf",),
            weight=2.0,
        ),
        Subject(".svec", False, make_svec, read("v.svec"), ("v.svec",), edit_json),
        Subject(
            "published direction, .pt",
            False,
            make_pt,
            read("."),
            ("*.pt", "direction_metadata.json"),
            lambda rng, path: edit_json(rng, path.parent / "direction_metadata.json"),
            2.0,
        ),
    ]


def _inputs() -> list[Subject]:
    found = organisms.prompts("chat")
    rows = [
        {
            "messages": [dict(message) for message in prompt.messages],
            "label": label,
            "source": "a",
        }
        for label in ("harmful", "harmless")
        for prompt in found[label][:5]
    ]
    texts = [prompt.text for prompt in found["harmful"][:10]]
    table = pd.DataFrame({"text": texts, "label": "harmful", "source": "a"})
    writers: dict[str, Callable[[Path], Any]] = {
        "csv": lambda path: table.to_csv(path, index=False),
        "jsonl": lambda path: path.write_text("\n".join(json.dumps(row) for row in rows)),
        "json": lambda path: path.write_text(json.dumps(texts)),
        "parquet": table.to_parquet,
        "txt": lambda path: path.write_text("\n".join(texts)),
    }
    edits = {"jsonl": edit_json_line, "json": edit_json}
    prompts = [
        Subject(
            f"prompts, .{form}",
            False,
            lambda folder, form=form, write=write: _done(write(folder / f"p.{form}")),  # type: ignore[misc]
            lambda folder, form=form: read_prompts(folder / f"p.{form}", "harmful").sha256,  # type: ignore[misc]
            (f"p.{form}",),
            edits.get(form),
        )
        for form, write in writers.items()
    ]
    truth = organisms.path("chat") / "truth.json"
    report = {"kind": "sinks", "format_version": 1, "provenance": {"model": "m"}, "findings": {}}
    return [
        *prompts,
        Subject(
            "truth.json",
            False,
            lambda folder: _done((folder / "truth.json").write_bytes(truth.read_bytes())),
            read_truth,
            ("truth.json",),
            edit_json,
        ),
        Subject(
            "report.json",
            False,
            lambda folder: _done((folder / "report.json").write_text(json.dumps(report))),
            lambda folder: read_report(folder / "report.json"),
            ("report.json",),
            edit_json,
        ),
    ]


def _models(made: _Made) -> list[Subject]:
    def make(folder: Path) -> None:
        made.checkpoint.model.save_pretrained(folder)
        tokenizer: Any = made.checkpoint.tokenizer
        tokenizer.save_pretrained(folder)

    def read(folder: Path) -> Any:
        checkpoint = interp.load(str(folder))
        rows = prompt_rows(checkpoint, PromptSet(made.harmful.prompts[:1]))
        ids = torch.tensor([rows[0].ids])
        with torch.inference_mode():
            return rows[0].ids, checkpoint.model(ids).logits

    return [
        Subject(f"model, {name}", False, make, read, (name,), edit, 1.0)
        for name, edit in (
            ("config.json", edit_json),
            ("tokenizer.json", edit_json),
            ("tokenizer_config.json", edit_json),
            ("model.safetensors", None),
            ("chat_template.jinja", None),
        )
    ]


def _done(_: Any) -> None:
    """So that a writer fits where nothing is returned."""
