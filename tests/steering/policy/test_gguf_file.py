"""The reader of GGUF files: what its writer wrote, and a sentence for everything else."""

import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from interp.errors import InputError
from steering.policy.gguf_file import read_gguf
from steering.policy.importing import read_vectors


def written(path: Path, layers: tuple[int, ...] = (1, 3), **change: Any) -> Path:
    given: dict[str, Any] = {"architecture": "controlvector", "count": len(layers), "extra": None}
    given |= {"dtype": np.float32, **change}
    writer = gguf.GGUFWriter(path, given["architecture"])
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", given["count"])
    writer.add_array("mechguard.lost", ["a gate", "a span"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float32("strength", 0.5)
    for layer in layers:
        vector = np.arange(5, dtype=given["dtype"]) + layer
        writer.add_tensor(given.get("name", "direction.{}").format(layer), vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = written(tmp_path / "v.gguf")
    found, theirs = read_gguf(path), gguf.GGUFReader(path)
    for key, value in found.fields.items():
        field = theirs.get_field(key)
        assert field is not None and field.contents() == value
    assert found.fields["mechguard.lost"] == ["a gate", "a span"]
    for tensor in theirs.tensors:
        assert torch.equal(found.tensors[tensor.name], torch.tensor(np.array(tensor.data)))
    half = written(tmp_path / "h.gguf", dtype=np.float16)
    assert torch.equal(read_gguf(half).tensors["direction.3"], torch.arange(5.0) + 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": 3}, "states 3 vectors, and holds 2"),
        ({"name": "gain.{}"}, "'gain.1', which is no direction"),
        ({"name": "direction.0{}"}, "'01' is no number of a layer"),
        ({"name": "direction.-{}"}, "'-1' is no number of a layer"),
        ({"dtype": np.int8}, "GGML type 24; F32, F16 and F64 are read"),
        ({"layers": ()}, "no vectors of one width|states 0|count is 0"),
    ],
)
def test_control_vectors_that_lie(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_vectors(written(tmp_path / "v.gguf", **change))


def number(place: int, form: str, value: int) -> Any:
    def change(content: bytes) -> bytes:
        size = struct.calcsize(form)
        return content[:place] + struct.pack(form, value) + content[place + size :]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: b"GGUX" + c[4:], "does not begin with GGUF"),
        (number(4, "<I", 9), "its version is 9"),
        (number(4, ">I", 3), "in little endian are read"),
        (number(8, "<Q", 2**60), "states 1152921504606846976 entries"),
        (number(16, "<Q", 2**60), "states 1152921504606846976 entries"),
        (number(24, "<Q", 2**40), "ends too early"),
        (lambda c: c[:-70], "ends too early"),
        (lambda c: c + b"\0" * 64, "bytes follow its last tensor"),
        (lambda c: c.replace(b"direction.3", b"direction.1"), "'direction.1' twice"),
        (lambda c: c.replace(b"strength", b"\xff\xff\xff\xff\xff\xff\xff\xff"), "utf-8"),
    ],
)
def test_damaged_files(tmp_path: Path, change: Any, said: str) -> None:
    path = written(tmp_path / "v.gguf")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=f"is damaged or no .gguf file of vectors.*{said}"):
        read_vectors(path)


def test_a_changed_byte_is_a_sentence_or_another_number(tmp_path: Path) -> None:
    path = written(tmp_path / "v.gguf")
    content, rng = path.read_bytes(), random.Random(0)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] = rng.randrange(256)
        path.write_bytes(bytes(changed))
        try:
            found = read_vectors(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert found.vectors.shape[1] == 5 and bool(torch.isfinite(found.vectors).all())
            assert "GGUF carries no checksum" in found.unchecked[0]
