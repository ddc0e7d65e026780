"""The folder of a report: whose run it holds, and who is writing to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.reading import decoded, exists, parse_json, read_bytes

FORMAT_VERSIONS = (1,)
_OTHER = "give another folder with --out, or replace the old report with --overwrite"


@contextmanager
def claimed(
    directory: Path,
    *,
    kind: str,
    model: str,
    data: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Iterator[None]:
    """Hold a folder for a run, so that nobody else writes a report to it meanwhile.

    What can be refused is refused here, before any work.

    Args:
        directory: of the report; made if absent.
        kind: of the finding.
        model: as the user named it.
        data: SHA-256 of the data of the run, in any order; None where it is not known yet.
        overwrite: replace the report of another run.

    Raises:
        InputError: the folder holds another run's report, or another run is writing to it.
    """
    from filelock import FileLock, Timeout

    if not overwrite:
        _require_match(directory, {"kind": kind, "model": model, "data": _sorted(data)})
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be made: {error.strerror}.") from error
    path = directory / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another run is writing to {directory}; wait for it, or give another folder."
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()
        # A run that failed leaves no empty folder behind.
        with suppress(OSError):
            directory.rmdir()


def require_same_run(directory: Path, report: dict[str, Any]) -> None:
    """Refuse to put a report into a folder that holds the report of another run.

    Two runs are the same if their kind, model, weights and data are; settings may differ.

    Raises:
        InputError: the folder holds another run, or tables that belong to no report.
    """
    provenance = _provenance(report)
    _require_match(
        directory,
        {
            "kind": report.get("kind"),
            "model": _model(provenance),
            "fingerprint": provenance.get("fingerprint"),
            "data": _digests(report),
        },
        provenance.get("identity"),
    )


def read_report(path: Path) -> dict[str, Any]:
    """The JSON of a report.

    Raises:
        InputError: it is missing, not readable as JSON, or of an unknown format version.
    """
    try:
        if not exists(path):
            raise InputError(
                f"There is no {path}; give the folder that an analysis wrote with --out."
            )
        report = parse_json(decoded(read_bytes(path)))
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); it is damaged, so run the analysis again."
        ) from error
    if not isinstance(report, dict) or "kind" not in report:
        raise InputError(f"{path} is not a report: it has no field 'kind'.")
    if report.get("format_version") not in FORMAT_VERSIONS:
        found = report.get("format_version")
        raise InputError(
            f"{path} has format version {found!r:.40}; this version of mechguard reads "
            f"{', '.join(map(str, FORMAT_VERSIONS))}."
        )
    return report


def _require_match(
    directory: Path, run: dict[str, Any], identity: dict[str, Any] | None = None
) -> None:
    """Compare what is known of a run with the report in the folder; None is not known."""
    path = directory / "report.json"
    if not exists(path):
        if exists(directory / "tables"):
            raise InputError(f"{directory / 'tables'} belongs to no report here; {_OTHER}.")
        return
    try:
        old = read_report(path)
    except InputError as error:
        raise InputError(f"{error} To write here all the same, {_OTHER}.") from error
    provenance = _provenance(old)
    there = {
        "kind": old["kind"],
        "model": _model(provenance),
        "fingerprint": provenance.get("fingerprint"),
        "data": _digests(old),
    }
    names = {
        "kind": "analysis",
        "model": "model",
        "fingerprint": "weights or settings of the model",
        "data": "data",
    }
    for key, value in run.items():
        if value is not None and there[key] is not None and value != there[key]:
            shown = f" ({there[key]}, not {value})" if key != "data" else ""
            if key == "fingerprint" and (said := _what(provenance.get("identity"), identity)):
                shown = f" ({said})"
            raise InputError(
                f"{directory} holds the report of a run with other {names[key]}{shown}; {_OTHER}."
            )


def _what(there: dict[str, Any] | None, here: dict[str, Any] | None) -> str:
    """What differs between the checkpoints of two runs; empty where a report does not say it."""
    if not there or not here:
        return ""
    from interp.model.identity import Identity, differences

    try:
        return "; ".join(differences(Identity.from_json(there), Identity.from_json(here)).values())
    except InputError:
        return ""


def _provenance(report: dict[str, Any]) -> dict[str, Any]:
    return report.get("provenance") or {}


def _model(provenance: dict[str, Any]) -> Any:
    return provenance.get("model") or provenance.get("run")


def _digests(report: dict[str, Any]) -> list[str] | None:
    """SHA-256 of all data that a report was made from, sorted; None if it names none."""
    # A report of several findings names what it was given; their parts follow from that.
    entries = report.get("data") if "findings" in report else _provenance(report).get("data")
    return _sorted([str(entry["sha256"]) for entry in entries or [] if entry.get("sha256")])


def _sorted(digests: Sequence[str] | None) -> list[str] | None:
    return sorted(set(digests)) if digests else None
