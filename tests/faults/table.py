"""What a case of the matrix is, and short ways to spoil a file."""

import json
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Make = Callable[[Path], object]
DEEP = "[" * 100_000 + "]" * 100_000


def nothing(folder: Path) -> None:
    """Leave the folder as it is."""


@dataclass(frozen=True)
class Fault:
    """A call that must be refused in one sentence.

    Attributes:
        name: of the case.
        argv: of the command; `{dir}` is a fresh folder with a copy of a model in `{dir}/model`,
            its texts in `{dir}/texts.txt` and prompts in `{dir}/prompts.jsonl`.
        sentence: a part of what must be said on stderr.
        make: spoils the fresh folder.
        exit: code of the command.
    """

    name: str
    argv: str
    sentence: str
    make: Make = nothing
    exit: int = 2


def file(name: str, content: str | bytes) -> Make:
    """Write a file."""

    def make(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    return make


def config(name: str = "config.json", **fields: Any) -> Make:
    """Change fields of a JSON file of the model."""

    def make(folder: Path) -> None:
        path = folder / "model" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return make


def without(name: str) -> Make:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def instead(name: str, make: Callable[[Path], object]) -> Make:
    """Put something else in the place of a file."""

    def do(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return do


def pipe(path: Path) -> None:
    """A named pipe, which nobody writes to."""
    os.mkfifo(path)


def device(path: Path) -> None:
    """A device that never ends."""
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    """A symbolic link to itself."""
    path.symlink_to(path)


def sock(path: Path) -> None:
    """A socket."""
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def sparse(size: int) -> Callable[[Path], None]:
    """A file of many bytes that takes no room."""

    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def cut(name: str, keep: float) -> Make:
    """Keep the first part of a file."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return make


def sharded(weight_map: Any) -> Make:
    """Weights as one shard `a.safetensors`, and an index."""

    def make(folder: Path) -> None:
        model = folder / "model"
        (model / "model.safetensors").rename(model / "a.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps(weight_map))

    return make


def header(content: Any) -> Make:
    """A weights file of a header of one's own and 64 bytes."""
    data = json.dumps(content).encode()
    return file("model/model.safetensors", struct.pack("<Q", len(data)) + data + b"\0" * 64)


def both(*makes: Make) -> Make:
    """One after the other."""

    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make
