"""One pass over rows of tokens that feeds any number of recorders."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp.capture import plan as plan
    from interp.capture import recorders as recorders
    from interp.capture.recorder import Needs as Needs
    from interp.capture.recorder import RowRecorder as RowRecorder
    from interp.capture.run import CaptureSummary as CaptureSummary
    from interp.capture.run import capture as capture

__getattr__, __all__ = attach(
    __name__,
    {
        "CaptureSummary": "run",
        "Needs": "recorder",
        "RowRecorder": "recorder",
        "capture": "run",
        "plan": "",
        "recorders": "",
    },
)
