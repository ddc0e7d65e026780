"""The types that reports are written from: what is measured reaches `report.json` through these.

A report is a frozen dataclass. Its fields are those of the JSON, so a misspelt one fails the type
checker; `as_json` writes it, and JSON Schemas are generated from the same types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


@dataclass(frozen=True)
class NotMeasured:
    """Stands where a measurement is absent, and says why; null in the JSON.

    Attributes:
        because: the reason, as the end of the sentence "It was not measured, because ...".
    """

    because: str

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> Any:
        """In a JSON Schema it is null; the reasons stand under `not_measured`."""
        from pydantic_core import core_schema

        return core_schema.none_schema()


class ModelFacts(TypedDict):
    """What the provenance of a report says of the checkpoint."""

    model: str
    revision: str | None
    fingerprint: str
    identity: Mapping[str, Any]
    tokenizer_hash: str | None
    model_type: str
    dtype: str
    width: int
    layers: int
    parameters: int
    device: str


class RunFacts(TypedDict):
    """What the provenance of a report says of the run."""

    seed: int
    versions: Mapping[str, str]
    command: str | None
    started: str
    wall_seconds: float


@dataclass(frozen=True)
class DataEntry:
    """Data that a report was made from.

    Attributes:
        name: of the file, set or part.
        sha256: of its content.
        sequences: rows, prompts or traces in it.
    """

    name: str
    sha256: str
    sequences: int


@dataclass(frozen=True, kw_only=True)
class RunProvenance:
    """How a run is made again, and when it was made; see `RunFacts`."""

    seed: int
    versions: Mapping[str, str]
    command: str | None
    started: str
    wall_seconds: float


@dataclass(frozen=True, kw_only=True)
class Provenance(RunProvenance):
    """What exactly was measured; see `ModelFacts`. An analysis adds fields of its own."""

    model: str
    revision: str | None
    fingerprint: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_hash: str | None
    model_type: str
    dtype: str
    width: int
    layers: int
    parameters: int
    device: str


@dataclass(frozen=True)
class Rate:
    """A share of n, with its interval at 95 %."""

    rate: float
    n: int
    interval: tuple[float, float]


def as_json(report: Any) -> dict[str, Any]:
    """The fields of a report, with those of everything in it, as dictionaries and lists.

    `not_measured` is added: the reason for each null that stands for an absent measurement, by the
    path to it. So is `intervals`: what each interval is, where it says so itself. An element of a
    list is `[]` in a path.

    Args:
        report: a frozen dataclass.
    """
    reasons: dict[str, str] = {}
    captions: dict[str, str] = {}
    found: dict[str, Any] = _walked(report, "", reasons, captions)
    return found | {"not_measured": reasons, "intervals": captions}


def _walked(value: Any, path: str, reasons: dict[str, str], captions: dict[str, str]) -> Any:
    if isinstance(value, NotMeasured):
        reasons.setdefault(path, value.because)
        return None
    if (caption := getattr(value, "caption", None)) is not None and isinstance(value, tuple):
        captions.setdefault(path, str(caption))
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {
            str(key): _walked(item, f"{path}.{key}" if path else str(key), reasons, captions)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_walked(item, f"{path}[]", reasons, captions) for item in value]
    return value
