"""Collections on disk: what the model showed, resumed where it stopped, whole or refused."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from collected import chat_prompts, planted
from families import tiny
from words import tokenizer, wordy

import interp
from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.capture.store import StoredActivations
from interp.checkpoint import Checkpoint
from interp.data.prompt_sets import Prompt, PromptSet, read_prompts
from interp.data.segments import with_chat_template
from interp.errors import InputError, NumericalError
from probes.collections import collection
from probes.collections.collection import Collection, collect
from probes.collections.plan import plan_collection

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_collection import collected
collected(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def collected(data: Path, out: Path, segment: str = "instruction") -> Collection:
    checkpoint = interp.load("organism:chat")
    prompts = read_prompts(data)
    columns = pd.read_json(data, lines=True)
    plan = plan_collection(checkpoint, prompts, site="resid_pre", segment=segment, columns=columns)
    return collect(checkpoint, plan, out, batch_tokens=60)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_prompts(tmp_path_factory.mktemp("data") / "prompts.jsonl", each=8)


@pytest.fixture(scope="module")
def chat() -> Checkpoint:
    return interp.load("organism:chat")


@pytest.mark.parametrize("segment", ["t_inst", "last"])
def test_states_are_those_of_the_model(
    chat: Checkpoint, data: Path, tmp_path: Path, segment: str
) -> None:
    found = collected(data, tmp_path / "out", segment)
    states = prompt_states(chat, prompt_rows(chat, read_prompts(data)))
    wanted = states.t_inst if segment == "t_inst" else states.t_post_inst
    assert found.one_token and found.layers == (0, 1, 2)
    np.testing.assert_allclose(found.states(), wanted, atol=1e-5)
    np.testing.assert_array_equal(found.states([2, 0]), found.states()[:, [2, 0]])


def test_tokens_of_a_segment_by_prompt(chat: Checkpoint, data: Path, tmp_path: Path) -> None:
    found = collected(data, tmp_path)
    one = collected(data, tmp_path / "last", "t_inst")
    rows = prompt_rows(chat, read_prompts(data))
    lengths = [stop - start for start, stop in (row.segments["instruction"] for row in rows)]
    assert [len(row) for row in found.sequences(1)] == lengths
    assert not found.one_token
    np.testing.assert_allclose(found.states(), one.states(), atol=1e-5)
    means = np.stack([row.mean(0) for row in found.sequences(1)])
    np.testing.assert_allclose(found.states([1], "mean")[:, 0], means, atol=1e-6)


def test_the_table_and_the_record(chat: Checkpoint, data: Path, tmp_path: Path) -> None:
    found = collected(data, tmp_path)
    assert set(found.table) >= {"index", "label", "source", "harmful", "number", "tokens"}
    assert "tags" not in found.table and "messages" not in found.table
    assert found.column("label").tolist() == ["harmful"] * 8 + ["harmless"] * 8
    assert found.meta["origin"]["fingerprint"] == chat.fingerprint
    assert found.meta["segment"] == "instruction" and len(found) == 16
    assert {path.name for path in tmp_path.iterdir()} == {
        "collection.json", "rows.csv", "layer-000", "layer-001", "layer-002",
    }  # fmt: skip


def test_a_head_site_and_one_outside_of_the_layers(tmp_path: Path) -> None:
    checkpoint = with_chat_template(wordy("llama"), None)
    prompts = PromptSet((Prompt(({"role": "user", "content": "w5 w6"},), "a", "s"),))
    for site, width in (("z", 32), ("final_norm", 32)):
        plan = plan_collection(checkpoint, prompts, site=site, segment="last")
        found = collect(checkpoint, plan, tmp_path / site)
        assert found.states().shape == (1, len(plan.sites), width)
    assert found.layers == (None,)


@pytest.mark.parametrize("site", ["resid_mid", "attn_out", "q", "k", "v", "z", "gate", "embed"])
def test_bytes_are_those_that_are_written(tmp_path: Path, site: str) -> None:
    base = interp.load(tiny("qwen3_next"), tokenizer=tokenizer())
    model = with_chat_template(base, None)
    said = ({"role": "user", "content": "w5 w6 w7"},)
    prompts = PromptSet((Prompt(said, "a", "s"),))
    plan = plan_collection(model, prompts, site=site, segment="all")
    collect(model, plan, tmp_path)
    folders = [path.parent for path in tmp_path.rglob("index.json")]
    loaded = [StoredActivations.open(folder).load()["values"] for folder in folders]
    assert plan.bytes == sum(values.nbytes for values in loaded) > 0


def test_a_stopped_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collected(data, tmp_path / "whole")
    checkpoint = interp.load("organism:chat")
    plan = plan_collection(checkpoint, read_prompts(data), site="resid_pre", segment="instruction")
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        collect(checkpoint, plan, out, batch_tokens=60, progress=stop)
    with pytest.raises(InputError, match=r"has no readable collection\.json"):
        Collection.open(out)
    passes = []
    handle = checkpoint.layers[0].register_forward_hook(lambda *_: passes.append(1))
    found = collect(checkpoint, plan, out, batch_tokens=60, progress=lambda *_: seen.append(0))
    handle.remove()
    assert len(passes) == len(seen) - 2 - 2
    np.testing.assert_array_equal(found.states(), whole.states())
    assert not (out / "unfinished").exists()
    # A finished one is opened, and nothing is run.
    monkeypatch.setattr(collection, "capture", None)
    assert collect(checkpoint, plan, out).meta == found.meta


def test_another_collection_in_the_folder_is_refused(data: Path, tmp_path: Path) -> None:
    collected(data, tmp_path)
    with pytest.raises(InputError, match="already holds a collection that differs in segment"):
        collected(data, tmp_path, "last")


@pytest.mark.slow
def test_two_processes_collect_what_one_does(data: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests", Path(__file__).parent])),
        }
        command = [sys.executable, "-c", SCRIPT, str(data), str(tmp_path / "two")]
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    two, one = Collection.open(tmp_path / "two"), collected(data, tmp_path / "one")
    np.testing.assert_array_equal(two.states(), one.states())
    assert two.table.equals(one.table)


def test_a_model_of_nans_gives_no_collection(tmp_path: Path) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    broken = with_chat_template(interp.load(model, tokenizer=tokenizer()), None)
    prompts = PromptSet((Prompt(({"role": "user", "content": "w5 w6"},), "a", "s"),))
    plan = plan_collection(broken, prompts, site="resid_post", segment="last")
    with pytest.raises(NumericalError, match=r"blocks\.1\.hook_resid_post is NaN .* in row 0"):
        collect(broken, plan, tmp_path)
    assert not (tmp_path / "collection.json").exists()


def test_a_disk_that_is_too_small_is_told_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = collection.shutil.disk_usage
    monkeypatch.setattr(
        collection.shutil, "disk_usage", lambda path: usage(path)._replace(free=700)
    )
    with pytest.raises(InputError, match=r"the activations need .* collect fewer layers"):
        collected(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_collections_are_refused(tmp_path: Path) -> None:
    found = planted(tmp_path / "a", n=12)
    with pytest.raises(InputError, match="has no layer 9; it has 0, 1, 2, 3"):
        found.tokens(9)
    with pytest.raises(InputError, match="has no column 'verdict'; it has index, label"):
        found.column("verdict")
    empty = planted(tmp_path / "b", n=12, label=["", *["1"] * 11])
    with pytest.raises(InputError, match="1 of 12 cells of the column 'label' are empty"):
        empty.column("label")
    lines = (tmp_path / "a" / "rows.csv").read_text().splitlines()
    (tmp_path / "a" / "rows.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(InputError, match="has 11 rows, and 12 were collected"):
        Collection.open(tmp_path / "a")
    (tmp_path / "a" / "rows.csv").unlink()
    with pytest.raises(InputError, match=r"rows\.csv is missing or damaged"):
        Collection.open(tmp_path / "a")
    meta = json.loads((tmp_path / "b" / "collection.json").read_text())
    (tmp_path / "b" / "collection.json").write_text(json.dumps(meta | {"tokens": 13}))
    with pytest.raises(InputError, match=r"layer 0 of .* does not hold the 13 tokens"):
        Collection.open(tmp_path / "b").tokens(0)
    (tmp_path / "b" / "collection.json").write_text(json.dumps(meta | {"format_version": 9}))
    with pytest.raises(InputError, match="is not a collection of format 2"):
        Collection.open(tmp_path / "b")


def used(folder: Path) -> None:
    found = Collection.open(folder)
    found.prompt_keys()
    for layer in found.layers:
        found.tokens(layer)


def test_a_changed_bit_is_found_in_every_file(data: Path, tmp_path: Path) -> None:
    collected(data, tmp_path, "last")
    rng = random.Random(0)
    for path in sorted(one for one in tmp_path.rglob("*") if one.is_file()):
        content = path.read_bytes()
        for place in rng.sample(range(len(content)), 12):
            changed = bytearray(content)
            changed[place] ^= 1 << rng.randrange(8)
            path.write_bytes(bytes(changed))
            with pytest.raises(InputError):
                used(tmp_path)
        path.write_bytes(content)
    used(tmp_path)


def test_files_of_two_collections_do_not_mix(data: Path, tmp_path: Path) -> None:
    for name, segment in (("one", "last"), ("two", "t_inst")):
        collected(data, tmp_path / name, segment)
    for name in ("rows.csv", "layer-001/index.json"):
        held = (tmp_path / "one" / name).read_bytes()
        (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
        with pytest.raises(InputError, match=f"{name} was changed after it was written"):
            Collection.open(tmp_path / "one")
        (tmp_path / "one" / name).write_bytes(held)
    used(tmp_path / "one")


def test_a_collection_of_before_is_read_with_one_warning_and_sealed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = planted(tmp_path / "a", n=12)
    with caplog.at_level("WARNING", "mechguard"):
        used(planted(tmp_path / "b", n=12).folder)
    said = [record.message for record in caplog.records if str(tmp_path / "b") in record.message]
    assert len(said) == 1 and said[0].endswith(f"vector info --seal {tmp_path / 'b'}")
    states = found.states()
    assert Collection.seal(tmp_path / "a") and not Collection.seal(tmp_path / "a")
    again = Collection.open(tmp_path / "a")
    assert {k: v for k, v in again.meta.items() if k != "checksums"} == found.meta
    assert len(again.meta["checksums"]) == 5 and np.array_equal(again.states(), states)
    rows = tmp_path / "a" / "rows.csv"
    rows.write_text(rows.read_text() + " ")
    with pytest.raises(InputError, match="was changed after it was written"):
        Collection.open(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": "12"}, "rows is '12', where an integer from 1 on"),
        ({"tokens": -1}, "tokens is -1"),
        ({"layers": []}, "layers is"),
        ({"layers": [0, 9]}, "names layer 9 of a model of 4 layers"),
        ({"layers": [-1]}, "layers is"),
        ({"site": "../up"}, "is not a site of a layer"),
        ({"site": "embed"}, "is not a site of a layer"),
        ({"segment": None}, "segment is None"),
        ({"origin": "m"}, "origin is 'm'"),
        ({"checksums": {}}, "has checksums of its files, and none of its own"),
    ],
)
def test_a_collection_that_lies(tmp_path: Path, change: dict[str, object], said: str) -> None:
    planted(tmp_path, n=12)
    path = tmp_path / "collection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=f"is damaged: .*{said}"):
        Collection.open(tmp_path)


def test_rows_and_folders_that_lie(tmp_path: Path) -> None:
    found = planted(tmp_path / "a", n=12, prompt_sha256=["x"] * 12)
    with pytest.raises(InputError, match="'x' is no key of a prompt"):
        found.prompt_keys()
    index = tmp_path / "a" / "layer-002" / "index.json"
    other = json.loads(index.read_text()) | {"site": "blocks.1.hook_resid_pre"}
    index.write_text(json.dumps(other))
    with pytest.raises(InputError, match=r"holds blocks\.1.*, where blocks\.2"):
        found.tokens(2)
