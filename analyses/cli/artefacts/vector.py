"""`mechguard vector`: what an artefact is, and vectors from and in the formats of others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.cli import options
from analyses.cli.artefacts.generate import MOST
from analyses.cli.options import DtypeChoice

if TYPE_CHECKING:
    from interp.model.artifacts import Artifact
    from probes.directions.directions import Direction

app = typer.Typer(
    no_args_is_help=True, help="Look at directions and other artefacts; export and import vectors."
)

_Paths = Annotated[
    list[Path],
    typer.Argument(
        help="Artefacts of mechguard, or folders of a published direction.", show_default=False
    ),
]


@app.command()
def info(
    paths: _Paths,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    seal: Annotated[
        bool,
        typer.Option(
            "--seal", help="Write checksums into artefacts or collections that have none yet."
        ),
    ] = False,
) -> None:
    """What each file holds, and which checkpoint it belongs to."""
    if seal:
        for path in paths:
            options.say(_sealed(path))
        return
    described = [_described(path) for path in paths]
    if as_json:
        options.say(json.dumps(described, indent=1))
        return
    for one in described:
        options.say("\n".join(f"{name:<16}{_shown(value)}" for name, value in one.items()) + "\n")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="A direction or a policy.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="A direction: lm-eval, neuronpedia, npy. A policy: gguf, easysteer, lm-eval.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.", show_default=False)],
) -> None:
    """Write a direction or a policy for another tool; says what the format cannot hold."""
    from probes.directions.export import export as write

    if _is_policy(path):
        _export_policy(path, to, out)
        return
    direction = _direction(path)
    write(direction, to, out)
    options.say(
        f"{out}: layer {direction.layer} ({direction.site}), at its raw length "
        f"{direction.norm:.4g}.\nThe file does not say which weights and chat template it belongs "
        f"to; keep {path} beside it."
    )


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(
            help="A .gguf control vector, a .svec file, or the folder of a published direction.",
            show_default=False,
        ),
    ],
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for the policy.", show_default=False)],
    strength: Annotated[
        float, typer.Option(help="Multiplies the vectors.", callback=options.bounded(-MOST, MOST))
    ] = 1.0,
    layers: Annotated[
        str | None,
        typer.Option(help="3, or 3,5,7, or 10-20.", show_default="all that the file holds"),
    ] = None,
    chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = DtypeChoice.auto,
    device: options.Device = "auto",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Make a policy of another tool's vectors, bound to the model; it adds them at all tokens."""
    from probes.collections.plan import parse_layers
    from steering.policy.importing import read_vectors

    found = read_vectors(path)
    options.require_folder(out)
    checkpoint = options.load_checkpoint(
        model, dtype, device, revision, trust_remote_code, chat_template
    )
    chosen = None if layers is None else parse_layers(layers, checkpoint.anatomy.n_layers)
    policy = found.policy(checkpoint, strength, layers=chosen)
    written = policy.save(out)
    sites = ", ".join(site.hook_name for site in policy.sites)
    options.say(
        f"{written}: {path} at {sites}, strength {strength:g}, bound to {checkpoint.name}.\n"
        f"Not checked: {'; '.join(found.unchecked)}. That they suit these weights is yours to "
        "check."
    )


def _is_policy(path: Path) -> bool:
    """Whether a file, or the one that a folder of a policy holds, is a policy."""
    from interp.model.artifacts import load

    inside = _file(path)
    return inside.is_file() and load(inside).kind == "policy"


def _export_policy(path: Path, to: str, out: Path) -> None:
    from steering.policy.export import export_policy
    from steering.policy.policy import Policy

    lost = export_policy(Policy.load(path), to, out)
    options.say("\n".join([f"{out} is written. It does not hold:", *(f"- {one}" for one in lost)]))


def _described(path: Path) -> dict[str, Any]:
    if path.is_dir() and not _file(path).exists():
        return _described_folder(path)
    if path.suffix in (".gguf", ".svec"):
        return _described_vectors(path)
    artifact = _checked(_file(path))
    shapes = {name: list(tensor.shape) for name, tensor in artifact.tensors.items()}
    return {"path": str(path), "kind": artifact.kind, "tensors": shapes, **artifact.meta}


def _described_folder(path: Path) -> dict[str, Any]:
    """A collection, or the folder of a published direction."""
    from probes.collections.collection import INDEX, Collection

    if (path / INDEX).exists():
        return {"path": str(path), **Collection.open(path).meta}
    said = {"path": str(path), "kind": "direction", **_direction(path).describe()}
    # Published vectors do not say how long states are, which is NaN, and no JSON.
    return {name: None if value != value else value for name, value in said.items()}


def _described_vectors(path: Path) -> dict[str, Any]:
    from steering.policy.importing import read_vectors

    found = read_vectors(path)
    return {
        "path": str(path),
        "kind": "vectors of another tool",
        "model_type": found.model_type,
        "sites": [site.hook_name for site in found.sites],
        "width": found.vectors.shape[1],
        "not checked": "; ".join(found.unchecked),
    }


def _sealed(path: Path) -> str:
    """Write checksums into what a path names; says what was done."""
    from interp.capture.store import StoredActivations
    from interp.errors import InputError
    from interp.model.artifacts import seal
    from probes.collections.collection import INDEX, Collection

    if (path / INDEX).exists():
        done = Collection.seal(path)
    elif (path / "index.json").exists():
        done = StoredActivations.seal(path)
    elif path.is_dir() and not _file(path).exists():
        raise InputError(f"{path} holds no artefact and no collection of mechguard, to be sealed.")
    else:
        done = seal(_file(path), _checked)
    return f"{path} is sealed." if done else f"{path} has its checksums already."


def _checked(path: Path) -> "Artifact":
    """An artefact, once the class of its kind has read it too; a guard needs a model for that."""
    from interp.model.artifacts import load
    from interp.model.origin import ANY_MODEL
    from probes.collections.fitted_probe import FittedProbe
    from probes.directions.directions import Direction
    from steering.policy.policy import Policy

    artifact = load(path)
    readers: dict[str, Callable[[Path], object]] = {
        "policy": lambda one: Policy.load(one, allow={ANY_MODEL}),
        "probe": FittedProbe.load,
        "direction": Direction.load,
    }
    if artifact.kind in readers:
        readers[artifact.kind](path)
    return artifact


def _file(path: Path) -> Path:
    """The path itself, or the policy in a folder."""
    from steering.policy.policy import FILE

    return path / FILE if path.is_dir() else path


def _direction(path: Path) -> "Direction":
    from probes.directions.directions import Direction, read_published

    return read_published(path)[1] if path.is_dir() else Direction.load(path)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
