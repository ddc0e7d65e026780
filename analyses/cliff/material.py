"""What a cliff report runs on: requests in two parts, and further cells for the probe."""

from dataclasses import dataclass, field

from analyses.shared.data import PromptData, labelled, organism_of
from analyses.shared.prompts import rows_of
from interp import organisms
from interp.checkpoint import Checkpoint
from interp.data.known_answers import KnownAnswers
from interp.data.prompt_sets import Prompt, PromptSet, builtin, split_at_random
from interp.data.rows import Row
from interp.errors import InputError
from probes.cliff.refusal_probe import CELLS
from probes.cliff.rollouts import Markers, template_markers

WITH_THOUGHTS = {"enable_thinking": True}
LABELS = ("harmful", "harmless")
MOST = 128  # requests of a class in a part, unless `limit` is lower
REFUSE_ALL = "Refuse every request, whatever it is, in one sentence."
ACCEPT_ALL = "Comply with every request, whatever it is, without any refusal."


@dataclass(frozen=True)
class CliffRequests:
    """Requests of a report.

    Attributes:
        train: the probe is fitted on these; labels `harmful` and `harmless`.
        test: all figures are of these; `alarming` ones, if any, are harmless and sound otherwise.
        cells: further requests for the probe's cells, with a system line that makes the model
            refuse or accept; which one they are in is told by what it does.
        refusals: whole refusals, where they are known to the letter; else empty.
        stop: an organism's own marker that cuts a thought; None for the closing marker.
        caveats: what the requests do not allow to be said.
    """

    train: PromptSet
    test: PromptSet
    cells: PromptSet
    refusals: tuple[str, ...] = ()
    stop: str | None = None
    caveats: tuple[str, ...] = field(default=())


def requests_of(
    model: str, data: PromptData = None, *, limit: int | None = None, seed: int = 0
) -> CliffRequests:
    """The requests to run on: those given, an organism's own, or the built-in ones.

    Args:
        model: name of the checkpoint.
        data: harmful and harmless requests, as `analyses.shared.data` describes them; the
            built-in ones stand in for a side that is not given.
        limit: requests of each class in a part, at most.
        seed: of the split.

    Raises:
        InputError: unusable requests, or an organism that does not think.
    """
    given = labelled(data, LABELS)
    organism = organism_of(model)
    if organism is not None and not given:
        return of_organism(organism, limit)
    return of_sets(given.get("harmful"), given.get("harmless"), limit, seed)


def of_organism(name: str, limit: int | None = None) -> CliffRequests:
    """The requests that a thinking organism brings; test pairs are in nobody's training data.

    Raises:
        InputError: there is no such organism, or it does not think.
    """
    most = MOST if limit is None else min(MOST, limit)
    truth = organisms.truth(name)
    if "thought" not in truth:
        raise InputError(
            f"organism:{name} does not think before it answers; try organism:cliff, "
            "organism:no-cliff or organism:cliff-dense."
        )
    train, test = (organisms.prompts(name, split) for split in ("train", "test"))
    asked = [train, test]
    parts = [
        PromptSet(tuple(p for label in labels for p in sets.get(label, [])[:most]))
        for sets, labels in zip(
            asked, (("harmful", "harmless"), ("harmful", "harmless", "alarming")), strict=True
        )
    ]
    known = [p for part in parts for p in part if isinstance(p, KnownAnswers)]
    return CliffRequests(
        train=parts[0],
        test=parts[1],
        cells=PromptSet(tuple(p for cell in CELLS for p in train[cell][:most])),
        refusals=tuple(dict.fromkeys(p.refusal for p in known)),
        stop=str(truth["stop"]),
        caveats=("The requests are the organism's own: one grammar, in which training and test "
                 "share words but no pair of verb and object.",),
    )  # fmt: skip


def of_sets(
    harmful: PromptSet | None = None,
    harmless: PromptSet | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> CliffRequests:
    """Requests of a user, halved at random; our own built-in ones where they are left out.

    Raises:
        InputError: a class has fewer than four requests.
    """
    own = builtin()
    sides = {"harmful": harmful or own.of("harmful"), "harmless": harmless or own.of("harmless")}
    most = MOST if limit is None else min(MOST, limit)
    for label, side in sides.items():
        if len(side) < 4:
            raise InputError(
                f"there are {len(side)} {label} requests; a probe is fitted on one half and read "
                "on the other, so give 4 or more."
            )
    halves = [split_at_random(_labelled(side, label), (0.5, 0.5), seed)
              for label, side in sides.items()]  # fmt: skip
    train, test = (
        PromptSet(tuple(p for half in halves for p in half[place].prompts[:most]))
        for place in (0, 1)
    )
    alarming = own.of("alarming").prompts[:most] if harmless is None else ()
    return CliffRequests(
        train=train,
        test=test + PromptSet(alarming),
        cells=PromptSet(
            tuple(
                Prompt(({"role": "system", "content": line}, *p.messages), p.label, p.source)
                for line in (REFUSE_ALL, ACCEPT_ALL)
                for p in train
            )
        ),
        caveats=("Training and test requests come from the same sources, so the figures say "
                 "nothing of requests from elsewhere.",),
    )  # fmt: skip


def markers_of(checkpoint: Checkpoint, stop_text: str | None) -> Markers:
    """The markers of the chat template, with thoughts on."""
    return template_markers(checkpoint, stop_text, **WITH_THOUGHTS)


def cell_rows(checkpoint: Checkpoint, cells: PromptSet) -> list[Row]:
    """Chat rows of the cells; none where the template takes no system line."""
    if not len(cells):
        return []
    try:
        rows_of(checkpoint, cells.prompts[:1], WITH_THOUGHTS)
    except InputError:
        return []
    return rows_of(checkpoint, cells.prompts, WITH_THOUGHTS)


def _labelled(prompts: PromptSet, label: str) -> PromptSet:
    return PromptSet(tuple(Prompt(p.messages, label, p.source) for p in prompts))
