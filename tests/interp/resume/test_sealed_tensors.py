"""The container of artefacts: what may be changed in a file is nothing."""

import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as serialised

from interp.errors import InputError
from interp.model.artifacts import Artifact, load, save, seal
from interp.resume.sealed_tensors import packed, read_container

META: dict[str, Any] = {
    "site": "resid_pre",
    "layer": 2,
    "position": -1,
    "segment": "instruction",
    "method": "planted",
    "residual_norm": 3.0,
}
VECTOR = torch.arange(6.0)


def saved(folder: Path) -> Path:
    return save(folder / "d.safetensors", Artifact("direction", {"vector": VECTOR}, META))


def unsealed(folder: Path) -> Path:
    """As a file was written before there were checksums."""
    path = saved(folder)
    container = read_container(path)
    assert container is not None
    path.write_bytes(serialised(container.tensors, metadata={"mechguard": container.text}))
    return path


def same(one: Artifact, other: Artifact) -> bool:
    equal = all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    return equal and (one.kind, one.meta) == (other.kind, other.meta)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content, good = path.read_bytes(), load(path)
    rng, refused = random.Random(0), 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(changed))
        try:
            assert same(load(path), good), place
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0.9 * len(content)


def test_other_tools_read_the_file(tmp_path: Path) -> None:
    made = {
        "a": torch.ones(3, dtype=torch.bfloat16),
        "b": torch.tensor(True),
        "c": torch.zeros(0, 2),
    }
    (tmp_path / "x").write_bytes(packed('{"é": 1}', made))
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert json.loads(file.metadata()["mechguard"]) == {"é": 1}
        for name, tensor in made.items():
            found = file.get_tensor(name)
            assert torch.equal(found, tensor) and found.dtype == tensor.dtype
    again = read_container(tmp_path / "x")
    assert again is not None and again.intact and again.tensors["c"].shape == (0, 2)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    assert saved(tmp_path / "a").read_bytes() == saved(tmp_path / "b").read_bytes()


def outline(entry: Any = None, metadata: Any = None, data: bytes = b"\0" * 8, **more: Any) -> bytes:
    head = {"__metadata__": {"mechguard": "{}"} if metadata is None else metadata, **more}
    head["v"] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | (entry or {})
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data


HEAD = '{"__metadata__": {"mechguard": "{}"}, %s}'
LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends before its header does"),
    "long header": ((2**40).to_bytes(8, "little") + b"{}", "ends before its header does"),
    "large header": (
        (10**7).to_bytes(8, "little") + b" " * 10**7,
        r"its header has 10\.0 MB; the most is 8",
    ),
    "no object": ((2).to_bytes(8, "little") + b"[]", "its header is no JSON object"),
    "unknown dtype": (outline({"dtype": "F31"}), "has the dtype 'F31'"),
    "strange dtype": (outline({"dtype": [1]}), "has the dtype"),
    "negative shape": (outline({"shape": [-2]}), r"has the shape \[-2\]"),
    "gigantic shape": (outline({"shape": [10**18, 0, 10**18]}), "has the shape"),
    "true as a length": (outline({"shape": [True, 2]}), "has the shape"),
    "shape of text": (outline({"shape": "2"}), "has the shape"),
    "shape of bytes": (outline({"shape": [3]}), "does not fit its bytes"),
    "offsets": (outline({"data_offsets": [0]}), "has the offsets"),
    "behind the end": (outline({"shape": [4], "data_offsets": [0, 16]}), "16 bytes long, and 8"),
    "a gap": (outline({"data_offsets": [8, 16]}, data=b"\0" * 16), "where the last one ends"),
    "an overlap": (
        outline(w={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}),
        "where the last one ends",
    ),
    "bytes behind": (outline(data=b"\0" * 9), "are 8 bytes long, and 9 follow"),
    "another field": (outline({"extra": 1}), "is incomplete"),
    "further metadata": (
        outline(metadata={"mechguard": "{}", "note": "x"}),
        "hold 'note', which mechguard does not write",
    ),
    "a wrong checksum": (outline(metadata={"mechguard": "{}", "sha256": "0"}), "checksum is none"),
    "no text": (outline(metadata={"mechguard": {}}), "its description is no text"),
    "a list": (outline(metadata={"mechguard": "[]"}), "its description is no JSON object"),
    "twice": (outline(metadata={"mechguard": '{"a": 1, "a": 2}'}), "key 'a' twice"),
    "NaN": (outline(metadata={"mechguard": '{"a": NaN}'}), "NaN, which is no number"),
    "deep": (outline(metadata={"mechguard": "[" * 10**5 + "]" * 10**5}), "nested deeper"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_container_that_lies(tmp_path: Path, name: str) -> None:
    content, said = LIES[name]
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=f"is damaged or no safetensors file.*{said}"):
        load(tmp_path / "x.safetensors")


def test_unknown_kinds_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", Artifact("crystal", {"v": VECTOR}, {}))
    with pytest.raises(InputError, match=r"holds a crystal, which this version .* does not know"):
        load(path)


def test_what_is_no_json_is_not_saved(tmp_path: Path) -> None:
    for wrong in ({"a": float("nan")}, {"a": object()}, {"a": "x" * 9_000_000}, {1: 1, "1": 2}):
        meta: Any = META | wrong
        with pytest.raises(InputError, match="cannot be kept as JSON"):
            save(tmp_path / "x.safetensors", Artifact("direction", {"vector": VECTOR}, meta))
    assert not list(tmp_path.iterdir())


def test_a_file_of_before_is_read_with_a_warning_and_sealed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = unsealed(tmp_path)
    before = read_container(path)
    with caplog.at_level(logging.WARNING, "mechguard"):
        good = load(path)
        load(path)
    assert len([r for r in caplog.records if "vector info --seal" in r.message]) == 1
    assert seal(path) and not seal(path)
    after = read_container(path)
    assert before is not None and after is not None and after.intact
    assert before.text == after.text and same(load(path), good)


def test_a_damaged_file_is_not_sealed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    container = read_container(path)
    assert container is not None
    text = container.text.replace('"layer": 2', '"layer": -2')
    lying = serialised(container.tensors, metadata={"mechguard": text})
    path.write_bytes(lying)
    with pytest.raises(InputError, match="layer is -2, where an integer from 0 on is needed"):
        seal(path)
    assert path.read_bytes() == lying
