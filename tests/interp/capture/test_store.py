"""Activations on disk: what the model showed, with its provenance, whole or not at all."""

import errno
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from safetensors import SafetensorError
from torch import Tensor

import interp
from interp.capture import store
from interp.capture.run import capture
from interp.capture.store import Activations, StoredActivations
from interp.checkpoint import Checkpoint
from interp.data.rows import Row, Rows, id_rows
from interp.errors import InputError, NumericalError
from interp.model.sites import Site

LENGTHS = (12, 5, 20, 19, 20)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return interp.load(tiny("llama"))


@pytest.fixture
def rows(checkpoint: Checkpoint) -> Rows:
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(3, 97, (n,), generator=generator).tolist() for n in LENGTHS]
    return id_rows(checkpoint, {"ids": ids})


def stored(
    checkpoint: Checkpoint, rows: Any, folder: Path, site: Site, segment: str = "text"
) -> StoredActivations:
    recorder = Activations(site, folder, segment)
    capture(checkpoint, rows, [recorder], batch_tokens=60)
    return recorder.result()


def hooked(checkpoint: Checkpoint, row: Row, module: Any) -> Tensor:
    """A module's output for one row alone."""
    kept: list[Tensor] = []
    handle = module.register_forward_hook(lambda m, args, output: kept.append(output))
    with torch.inference_mode():
        checkpoint.model(torch.tensor([row.ids]), use_cache=False)
    handle.remove()
    return kept[0][0]


@pytest.mark.parametrize(
    ("site", "path", "shape"),
    [
        (Site("resid_post", 2), "model.layers.2", (32,)),
        (Site("k", 1), "model.layers.1.self_attn.k_proj", (2, 8)),
        (Site("embed"), "model.embed_tokens", (32,)),
        (Site("final_norm"), "model.norm", (32,)),
    ],
)
def test_what_is_stored_is_what_the_model_showed(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path, site: Site, path: str, shape: tuple[int]
) -> None:
    found = stored(checkpoint, rows, tmp_path, site).load(checkpoint)
    assert found["values"].shape == (sum(LENGTHS), *shape)
    assert found["rows"].tolist() == [r for r, n in enumerate(LENGTHS) for _ in range(n)]
    assert found["positions"].tolist() == [p for n in LENGTHS for p in range(n)]
    for row in rows.rows:
        wanted = hooked(checkpoint, row, checkpoint.model.get_submodule(path))
        given = found["values"][found["rows"] == row.index].flatten(1)
        torch.testing.assert_close(given, wanted, rtol=0, atol=1e-5)


def test_segments_pick_their_tokens(checkpoint: Checkpoint, rows: Rows, tmp_path: Path) -> None:
    site = Site("resid_post", 1)
    everything = stored(checkpoint, rows, tmp_path / "all", site, "all").load()
    last = stored(checkpoint, rows, tmp_path / "last", site, "last").load()
    assert last["rows"].tolist() == list(range(5))
    assert last["positions"].tolist() == [n - 1 for n in LENGTHS]
    marked = [Row(r.index, r.ids, r.domain, {"middle": (2, 4)}) for r in rows.rows]
    middle = stored(checkpoint, marked, tmp_path / "middle", site, "middle").load()
    assert middle["positions"].tolist() == [2, 3] * 5
    place = {
        (int(r), int(p)): i
        for i, (r, p) in enumerate(zip(everything["rows"], everything["positions"], strict=True))
    }
    for part in (last, middle):
        index = [
            place[int(r), int(p)] for r, p in zip(part["rows"], part["positions"], strict=True)
        ]
        assert torch.equal(part["values"], everything["values"][index])


def test_a_segment_that_a_row_lacks_is_refused(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="row 1 has no segment 'thinking'; it has all, last, text"):
        stored(checkpoint, rows, tmp_path, Site("embed"), "thinking")


def test_values_keep_the_dtype_of_the_model(rows: Rows, tmp_path: Path) -> None:
    half = interp.load(tiny("llama", torch.bfloat16))
    found = stored(half, rows, tmp_path, Site("resid_post", 0))
    assert found.load(half)["values"].dtype == torch.bfloat16
    assert found.index["dtype"] == "bfloat16"


def test_the_index_says_where_activations_come_from(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path
) -> None:
    site = Site("resid_post", 2)
    index = stored(checkpoint, rows, tmp_path, site).index
    assert StoredActivations.open(tmp_path).index == index
    assert index["fingerprint"] == checkpoint.fingerprint
    assert (index["site"], index["segment"]) == (site.hook_name, "text")
    assert sum(index["shards"].values()) == sum(LENGTHS)
    other = interp.load(tiny("llama", seed=1))
    with pytest.raises(InputError, match="holds activations of"):
        StoredActivations.open(tmp_path).load(other)


def test_a_folder_holds_one_site_and_segment(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path
) -> None:
    first = stored(checkpoint, rows, tmp_path, Site("resid_post", 2)).load()
    again = stored(checkpoint, rows, tmp_path, Site("resid_post", 2)).load()
    assert torch.equal(first["values"], again["values"])
    for site, segment in ((Site("resid_post", 1), "text"), (Site("resid_post", 2), "last")):
        with pytest.raises(InputError, match=r"already holds blocks\.2\.hook_resid_post"):
            stored(checkpoint, rows, tmp_path, site, segment)
        assert torch.equal(StoredActivations.open(tmp_path).load()["values"], first["values"])


def test_unfinished_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did not finish"):
        StoredActivations.open(tmp_path)
    for content in ("{", "[]", "{}", '{"kind": "activations", "format_version": 99}'):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(InputError, match=r"did not finish|not an activation index of format 1"):
            StoredActivations.open(tmp_path)
    with pytest.raises(InputError, match="no activations of hook_embed were captured"):
        Activations(Site("embed"), tmp_path / "none").result()


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_shard_is_refused(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path, damage: str
) -> None:
    found = stored(checkpoint, rows, tmp_path, Site("embed"))
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    if damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-7])
    else:
        shard.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        found.load()
    fresh = Activations(Site("embed"), tmp_path)
    state = {"names": torch.frombuffer(bytearray(shard.name, "utf8"), dtype=torch.uint8).numpy()}
    if damage == "remove":
        with pytest.raises(InputError, match="is gone, though the work folder says"):
            fresh.load_state(state | {"sizes": torch.tensor([5]).numpy()})


def test_infinite_activations_name_their_row(rows: Rows, tmp_path: Path) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[96] = float("inf")
    broken = interp.load(model)
    bad = [*rows.rows[:2], Row(2, (5, 96, 7), "ids", {"text": (0, 3)})]
    with pytest.raises(NumericalError, match="hook_embed is NaN or infinite in row 2"):
        stored(broken, bad, tmp_path, Site("embed"))


@pytest.mark.parametrize("fault", ["save", "rename", "ask", "small"])
def test_a_full_disk_keeps_earlier_shards_and_no_half_one(
    checkpoint: Checkpoint,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    left = [1]

    def fill_up(own: Any, error: Exception, half: bool = False) -> Any:
        def call(*args: Any) -> Any:
            left[0] -= 1
            if left[0] >= 0:
                return own(*args)
            if half:
                Path(args[1]).write_bytes(b"half")
            raise error

        return call

    full = OSError(errno.ENOSPC, "No space left on device")
    usage = shutil.disk_usage
    with monkeypatch.context() as patch:
        if fault == "save":
            error = SafetensorError("I/O error: No space left on device")
            patch.setattr(store, "save_file", fill_up(store.save_file, error, half=True))
        elif fault == "rename":
            patch.setattr(os, "replace", fill_up(os.replace, full))
        elif fault == "ask":
            patch.setattr(shutil, "disk_usage", fill_up(usage, full))
        else:
            patch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=700))
        message = "MB needed" if fault == "small" else "No space left on device"
        with pytest.raises(InputError, match=rf"cannot be written \(.*{message}.*free some space"):
            stored(checkpoint, rows, tmp_path, Site("embed"))
    kept = sorted(os.listdir(tmp_path))
    assert all(name.endswith(".safetensors") for name in kept)
    assert len(kept) == (0 if fault == "small" else 1)
    found = stored(checkpoint, rows, tmp_path, Site("embed"))
    assert len(found.load()["values"]) == sum(LENGTHS)


def test_a_folder_in_the_way_is_named(checkpoint: Checkpoint, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        stored(checkpoint, rows, tmp_path / "file", Site("embed"))


def test_the_index_lists_shards_in_order(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path
) -> None:
    stored(checkpoint, rows, tmp_path, Site("embed"))
    shards = list(json.loads((tmp_path / "index.json").read_text())["shards"])
    assert shards == sorted(shards) == sorted(p.name for p in tmp_path.glob("*.safetensors"))


def test_a_changed_bit_is_found_in_index_and_shards(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path
) -> None:
    stored(checkpoint, rows, tmp_path, Site("resid_post", 1))
    rng = random.Random(0)
    for path in [*tmp_path.glob("*.safetensors"), tmp_path / "index.json"]:
        content = path.read_bytes()
        places = range(len(content)) if path.suffix == ".json" else range(0, len(content), 97)
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(bytes(changed))
            with pytest.raises(InputError):
                StoredActivations.open(tmp_path).load()
        path.write_bytes(content)
    StoredActivations.open(tmp_path).load()


def test_indexes_of_before_are_read_checked_and_sealed(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = stored(checkpoint, rows, tmp_path, Site("resid_post", 1)).load()
    path = tmp_path / "index.json"
    index = json.loads(path.read_text())
    old = {name: value for name, value in index.items() if name not in ("checksums", "sha256")}
    path.write_text(json.dumps(old))
    with caplog.at_level("WARNING", "mechguard"):
        assert not StoredActivations.open(tmp_path).sealed
    assert "vector info --seal" in caplog.text
    assert StoredActivations.seal(tmp_path) and not StoredActivations.seal(tmp_path)
    assert json.loads(path.read_text()) == index
    assert torch.equal(StoredActivations.open(tmp_path).load()["values"], good["values"])
    (name, count), *_ = old["shards"].items()
    for change, said in (
        ({"shards": {name: -1}}, "no complete index: shards is"),
        ({"shards": {"../elsewhere.safetensors": count}}, "no complete index: shards is"),
        ({"shards": {}}, "no complete index: shards is"),
        ({"shards": {name: count + 1}}, f"are not {count + 1} integers"),
        ({"shards": {"none.safetensors": 1}}, "missing or damaged"),
        ({"site": 3}, "site is 3, where a name"),
    ):
        path.write_text(json.dumps(old | change))
        with pytest.raises(InputError, match=said):
            StoredActivations.open(tmp_path).load()


def test_work_folders_of_before_have_no_checksums(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path
) -> None:
    site = Site("resid_post", 1)
    index = stored(checkpoint, rows, tmp_path, site).index
    recorder = Activations(site, tmp_path).fresh()
    recorder.needs(checkpoint)
    sizes = np.array(list(index["shards"].values()))
    names = np.frombuffer("\n".join(index["shards"]).encode(), dtype=np.uint8)
    recorder.load_state({"names": names, "sizes": sizes})
    assert recorder.result().index["checksums"] == index["checksums"]


def test_shards_that_a_stopped_run_has_left_are_removed(
    checkpoint: Checkpoint, rows: Rows, tmp_path: Path
) -> None:
    site = Site("resid_post", 1)
    for name in ("blocks.1.hook_resid_post-all-00000099.safetensors", "another.safetensors"):
        (tmp_path / name).write_bytes(b"left")
    index = stored(checkpoint, rows, tmp_path, site, "all").index
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == {*index["shards"], "another.safetensors"}
