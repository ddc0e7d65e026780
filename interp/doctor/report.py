"""doctor: the invariants of every measurement, checked on the user's own checkpoint.

The token ids are random (seeded), for what is checked holds for any text. Differences of logits
are relative to the largest |logit|; 1e-5 is allowed in float32 and 2e-2 in half precision.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import torch

from interp.checkpoint import Checkpoint
from interp.doctor.checks import NotApplicable, Outcome, checks_in_order
from interp.doctor.model_under_test import ModelUnderTest, prepare
from interp.errors import UnsupportedModelError

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["PASS", "FAIL", "N/A"]
# Parameters below which one thread is faster than several.
_SMALL = 20_000_000


@dataclass(frozen=True)
class Check:
    """One invariant. `difference` and `tolerance` are None where there is no number to give."""

    name: str
    status: Status
    difference: float | None
    tolerance: float | None
    detail: str


@dataclass(frozen=True)
class DoctorReport:
    """What the doctor found; `seconds` is the time of all checks together."""

    model: str
    architecture: str
    dtype: str
    device: str
    seconds: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "FAIL" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"kind": "doctor", "format_version": 1, "passed": self.passed, **asdict(self)}

    def to_frame(self) -> "pd.DataFrame":
        """One row for each check."""
        import pandas as pd

        return pd.DataFrame([asdict(check) for check in self.checks])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("check", "", "difference", "allowed", ""))
        body = "".join(
            f"<tr><td>{escape(check.name)}</td><td><b>{check.status}</b></td>"
            f"<td>{show_number(check.difference)}</td><td>{show_number(check.tolerance)}</td>"
            f"<td style='text-align:left'>{escape(check.detail)}</td></tr>"
            for check in self.checks
        )
        title = f"{self.model} ({self.architecture}, {self.dtype}, {self.device})"
        return f"<p>{escape(title)}</p><table><tr>{head}</tr>{body}</table>"


def doctor(checkpoint: Checkpoint, seed: int = 0) -> DoctorReport:
    """Check the invariants on a checkpoint, by short forward passes: some thirty, and two a layer.

    Args:
        checkpoint: is left as it was.
        seed: of the token ids and of the vector that is added.

    Raises:
        UnsupportedModelError: the model cannot be run on token ids at all.
    """
    start = time.perf_counter()
    tested = prepare(checkpoint, seed)
    with torch.inference_mode(), _one_thread_if(checkpoint.anatomy.parameters < _SMALL):
        found = tuple(_carry_out(name, check, tested) for name, check in checks_in_order())
    return DoctorReport(
        model=checkpoint.name,
        architecture=checkpoint.anatomy.architecture,
        dtype=str(checkpoint.dtype).removeprefix("torch."),
        device=str(checkpoint.device),
        seconds=round(time.perf_counter() - start, 3),
        checks=found,
    )


@contextmanager
def _one_thread_if(small: bool) -> Iterator[None]:
    """Threads that wait for each other cost a small model a hundred times its own work."""
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _carry_out(
    name: str, check: Callable[[ModelUnderTest], Outcome], tested: ModelUnderTest
) -> Check:
    try:
        outcome = check(tested)
    except (NotApplicable, UnsupportedModelError) as reason:
        return Check(name, "N/A", None, None, str(reason))
    except Exception as error:
        # Whatever breaks here would have broken a measurement, so the table has to show it.
        return Check(name, "FAIL", None, None, f"{type(error).__name__}: {error}")
    status: Status = "PASS" if outcome.passed else "FAIL"
    return Check(name, status, outcome.difference, outcome.tolerance, outcome.detail)


def show_number(value: float | None) -> str:
    """A difference or tolerance as the tables show it; empty where there is none."""
    return "" if value is None else f"{value:.1e}" if value else "0"
