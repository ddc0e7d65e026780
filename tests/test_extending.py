"""The first change of docs/extending.md, performed as it is printed there."""

import re
from pathlib import Path

import numpy as np

from interp.capture.recorder import RowRecorder

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def test_a_recorder_is_one_piece_of_code() -> None:
    code = re.search(r"## A recorder.*?```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert code is not None
    names: dict[str, object] = {"__name__": "a notebook"}
    exec(compile(code[1], str(PAGE), "exec"), names)
    recorder, checkpoint = names["recorder"], names["checkpoint"]
    assert isinstance(recorder, RowRecorder)
    share = recorder.result().stack("share")
    assert share.shape == (2, checkpoint.anatomy.n_layers)  # type: ignore[attr-defined]
    assert np.isfinite(share).all() and (share > 0).all() and (share < 1).all()


def test_every_file_that_the_page_names_is_there() -> None:
    root = PAGE.parents[1]
    pattern = r"`((?:interp|probes|steering|analyses|mechguard|tests)/[\w/.]+)`"
    named = re.findall(pattern, PAGE.read_text("utf-8"))
    assert len(named) > 8
    assert [name for name in named if "NAME" not in name and not (root / name).exists()] == []
