"""A folder belongs to one run, and one process writes to it at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analyses.report.folder import claimed, read_report, require_same_run
from interp.errors import InputError

RUN: dict[str, Any] = {"kind": "sinks", "model": "m", "data": ["b", "a"]}


def report(**changed: Any) -> dict[str, Any]:
    """A report of `RUN`, with some fields of its provenance changed."""
    entries = [{"name": name, "sha256": name, "sequences": 1} for name in changed.pop("data", "ab")]
    provenance = {"model": "m", "fingerprint": "f", "data": entries} | changed
    return {"kind": "sinks", "format_version": 1, "provenance": provenance}


def put(folder: Path, found: dict[str, Any]) -> None:
    (folder / "report.json").write_text(json.dumps(found))


def test_the_same_run_may_come_again(tmp_path: Path) -> None:
    with claimed(tmp_path / "new", **RUN):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()  # nothing was written
    put(tmp_path, report())
    with claimed(tmp_path, **RUN):
        pass
    require_same_run(tmp_path, report())
    assert {path.name for path in tmp_path.iterdir()} == {"report.json"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "refusal"}, r"other analysis \(sinks, not refusal\)"),
        ({"model": "n"}, r"other model \(m, not n\)"),
        ({"data": ["a"]}, "other data;"),
    ],
)
def test_another_run_is_refused_before_work(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    put(tmp_path, report())
    with pytest.raises(InputError, match=said) as caught, claimed(tmp_path, **(RUN | changed)):
        pytest.fail("work was begun")
    assert "--overwrite" in str(caught.value)
    with claimed(tmp_path, **(RUN | changed), overwrite=True):
        pass


def test_other_weights_of_one_name_are_refused_when_they_are_known(tmp_path: Path) -> None:
    put(tmp_path, report())
    with pytest.raises(InputError, match="other weights"):
        require_same_run(tmp_path, report(fingerprint="g"))
    with pytest.raises(InputError, match="other data"):
        require_same_run(tmp_path, report(data="a"))


def test_what_is_not_known_yet_is_not_compared(tmp_path: Path) -> None:
    put(tmp_path, report())
    with claimed(tmp_path, kind="sinks", model="m"):
        pass


def test_a_damaged_report_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="--overwrite"), claimed(tmp_path, **RUN):
        pytest.fail("work was begun")
    with pytest.raises(InputError, match="not valid JSON"):
        read_report(tmp_path / "report.json")


def test_a_report_of_several_findings_is_told_by_what_it_was_given(tmp_path: Path) -> None:
    whole = {**report(), "kind": "report", "findings": {"sinks": report(data="xyz")}}
    whole["data"] = [{"name": "a", "sha256": "a", "sequences": 1}]
    put(tmp_path, whole)
    with claimed(tmp_path, kind="report", model="m", data=["a"]):
        pass
    with pytest.raises(InputError, match="other data"):
        require_same_run(tmp_path, {**whole, "data": [{"sha256": "b"}]})


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from analyses.report.folder import claimed\n"
        f"with claimed(pathlib.Path({str(tmp_path)!r}), kind='sinks', model='m'):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(InputError, match="another run is writing to"), claimed(tmp_path, **RUN):
            pytest.fail("work was begun")
        other.communicate("")
    with claimed(tmp_path, **RUN):
        pass


def test_what_differs_between_two_checkpoints_of_one_name_is_said(tmp_path: Path) -> None:
    parts = {"rounded": {}, "tokenizer": None, "template": None, "dtype": "float32"}
    one = {**parts, "weights": "ab" * 32, "adapter": None, "config": {"rope_theta": 10.0}}
    put(tmp_path, report(identity=one))
    other = {**one, "config": {"rope_theta": 10000.0}}
    with pytest.raises(InputError, match=r"\(rope_theta 10000 here, 10 there\); give another"):
        require_same_run(tmp_path, report(fingerprint="g", identity=other))
    with pytest.raises(InputError, match=r"of the model \(f, not g\)"):
        require_same_run(tmp_path, report(fingerprint="g", identity={"weights": "of no use"}))
