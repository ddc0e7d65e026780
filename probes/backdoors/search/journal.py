"""What a search has got so far, on disk, so that a stopped one goes on.

A search is a fixed course: the same checkpoint, prompts and settings ask for the same units of work
in the same order. So no snapshot of its many parts is kept, but what each unit yielded and cost, a
line of JSON apiece. A search that is begun again runs the same code from its start; what stands in
the journal is handed out instead of being computed, and its cost is charged again. The rest follows
from the same results, so the end is that of an unbroken search, spent passes included, and seconds
add up. A stop loses the unit that was running, even one without warning.

Only the expensive is kept, once it is small: replies, truths, rewards, but no logits. What is not
kept is computed again, so leaving something out costs time alone.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.resume.files import write_atomically
from probes.backdoors.search.budget import Budget, Exhausted

log = logging.getLogger("mechguard.backdoor")

_CHECKSUM = "sha256"


class Journal:
    """The units of one search in their order.

    Args:
        path: of its file, in a folder that belongs to this search alone. A line that is damaged
            ends what is read, and a warning says so.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._earlier = _read(path)
        self._used = 0

    def once(self, budget: Budget, name: str, what: object, run: Callable[[], Any]) -> Any:
        """What a unit yields, from the journal where it stands there.

        Args:
            budget: pays for the unit, and for all that runs within it.
            name: of this kind of unit.
            what: tells it from others of its kind; JSON-ready.
            run: computes it; what it returns is JSON-ready, and comes back as JSON has it.

        Raises:
            Exhausted: the budget did not allow it, now or then.
            InputError: the journal cannot be written.
        """
        unit = f"{name} {hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"
        if self._used < len(self._earlier) and self._earlier[self._used]["unit"] != unit:
            self._leave_off(unit)
        if self._used < len(self._earlier):
            done = self._earlier[self._used]
            self._used += 1
            budget.charge(done["passes"], done["seconds"])
        else:
            done = self._add(budget, unit, run)
        if done["exhausted"]:
            raise Exhausted
        return done["value"]

    def _add(self, budget: Budget, unit: str, run: Callable[[], Any]) -> dict[str, Any]:
        spent, begun, value, exhausted = budget.spent, budget.elapsed, None, False
        try:
            value = run()
        except Exhausted:
            exhausted = True
        done = {
            "unit": unit,
            "passes": budget.spent - spent,
            "seconds": round(budget.elapsed - begun, 3),
            "exhausted": exhausted,
            "value": value,
        }
        line = _line(done)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be written ({error.strerror}); free some space and run the "
                "same command again, which goes on from where it was."
            ) from error
        # As JSON has it, so that a search goes on with the same whether or not it was stopped.
        back: dict[str, Any] = json.loads(json.dumps(done))
        return back

    def _leave_off(self, unit: str) -> None:
        """Drop what another course has left, such as one that a clock cut elsewhere."""
        log.warning(
            "%s holds another course from line %d on (%s where this one asks for %s); from there "
            "on the search is run again.",
            self._path,
            self._used + 1,
            self._earlier[self._used]["unit"],
            unit,
        )
        self._earlier = self._earlier[: self._used]
        _write(self._path, self._earlier)


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; a damaged one and all behind it are taken out of the file."""
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); remove it to begin anew."
        ) from error
    lines = content.splitlines()
    found: list[dict[str, Any]] = []
    for line in lines:
        try:
            done = json.loads(line)
            entry = {
                "unit": str(done["unit"]),
                "passes": int(done["passes"]),
                "seconds": float(done["seconds"]),
                "exhausted": bool(done["exhausted"]),
                "value": done["value"],
            }
            if done[_CHECKSUM] != _sha256(entry):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            log.warning(
                "%s is damaged in line %d of %d; what it held from there on is computed again.",
                path,
                len(found) + 1,
                len(lines),
            )
            _write(path, found)
            break
        found.append(entry)
    if content and not content.endswith(b"\n"):
        _write(path, found)  # or what is added would stand on the last line
    return found


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    write_atomically(path, "".join(map(_line, entries)).encode())


def _line(entry: dict[str, Any]) -> str:
    return json.dumps({**entry, _CHECKSUM: _sha256(entry)}) + "\n"


def _sha256(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry).encode()).hexdigest()
