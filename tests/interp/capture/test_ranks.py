"""Two gloo processes record what one does, bit for bit."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import tiny
from recording import applying, results, rows_of

import interp
from interp.capture import ranks
from interp.capture.run import capture
from interp.capture.store import Activations, StoredActivations
from interp.checkpoint import Checkpoint
from interp.model.sites import Site
from interp.resume.files import load_tensors, save_tensors

ROOT = Path(__file__).parents[3]
FAMILIES = ["qwen3_5", "gpt_oss"]
# Run by every rank: several captures in a row, the last with fewer batches than ranks.
SCRIPT = """
import sys
from pathlib import Path
from typing import Any
import torch
torch.set_num_threads(1)
from test_ranks import FAMILIES, record, tiny
import interp
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
for family in FAMILIES:
    checkpoint = interp.load(tiny(family))
    record(checkpoint, 8, folder, f"{family}-{rank}", f"{family}-streams")
    record(checkpoint, 1, folder, f"{family}-few-{rank}", f"{family}-few-streams")
assert not torch.distributed.is_initialized()
"""


def record(checkpoint: Checkpoint, count: int, folder: Path, name: str, streams: str) -> None:
    """Capture the first rows with every recorder, and write down what these hold."""
    stream = Activations(Site("resid_post", 1), folder / streams)
    recorders = applying(checkpoint)
    rows = rows_of(checkpoint).rows[:count]
    capture(checkpoint, rows, [*recorders, stream], batch_tokens=40)
    stream.result()
    save_tensors(folder / name, results(recorders))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _spawn(rank: int, size: int, port: int, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests", Path(__file__).parent])),
    }
    command = [sys.executable, "-c", SCRIPT, str(rank), str(folder)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_record_what_one_does(tmp_path: Path) -> None:
    port = _free_port()
    processes = [_spawn(rank, 2, port, tmp_path) for rank in range(2)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=150)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    alone = tmp_path / "alone"
    alone.mkdir()
    for family in FAMILIES:
        checkpoint = interp.load(tiny(family))
        for suffix, count in (("", 8), ("-few", 1)):
            streams = f"{family}{suffix}-streams"
            record(checkpoint, count, alone, "one", streams)
            one = load_tensors(alone / "one")
            for rank in range(2):
                two = load_tensors(tmp_path / f"{family}{suffix}-{rank}")
                assert set(two) == set(one)
                for key, values in one.items():
                    assert values.dtype == two[key].dtype
                    np.testing.assert_array_equal(two[key], values, err_msg=key)
            together = StoredActivations.open(tmp_path / streams).load(checkpoint)
            for key, values in StoredActivations.open(alone / streams).load(checkpoint).items():
                assert torch.equal(together[key], values)


def test_a_plain_run_begins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks.group() as group:
        assert (group.rank, group.size) == (0, 1)
        assert group.gather({"a": 1}) == [{"a": 1}]
        assert not torch.distributed.is_initialized()


def test_a_group_of_one_that_somebody_began_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        # What matters is who began the group, so the environment may say two here.
        monkeypatch.setenv("WORLD_SIZE", "2")
        with ranks.group() as group:
            assert (group.rank, group.size) == (0, 1)
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
