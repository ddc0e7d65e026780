"""What a trigger search is told, and what it has found."""

from dataclasses import dataclass, field

from probes.backdoors.search.effects import Effect
from probes.backdoors.search.leakage import Motif
from probes.backdoors.search.requests import Candidate, Requests
from probes.backdoors.search.target_inversion import Target
from probes.backdoors.search.trial import Trial


@dataclass(frozen=True)
class SearchSettings:
    """Of a search.

    Attributes:
        samples: texts that are sampled from the chat prefix.
        leak_length: tokens of each.
        max_new_tokens: of a reply that a string is tried with.
        controls: strings of equal length that a working trigger is held against.
        vocabulary: tokens that target inversion and the beam may use, at most.
        width: of the beam.
        longest: tokens of a string that the beam builds.
        beam: whether to search by beam where memory yields nothing.
        gradient: whether to search along gradients too.
        seed: of all draws.
    """

    samples: int = 512
    leak_length: int = 24
    max_new_tokens: int = 12
    controls: int = 200
    vocabulary: int = 512
    width: int = 6
    longest: int = 3
    beam: bool = True
    gradient: bool = False
    seed: int = 0


@dataclass
class Found:
    """What a search has found, in part if its budget ran out.

    Attributes:
        trials: strings tried on held-out prompts, the most working first.
        motifs: of the leaked texts.
        leaked: texts sampled.
        effects: of candidates on the next token.
        targets: texts that go on by themselves.
        tokens_tried: first tokens that target inversion got through.
        vocabulary: tokens it could have tried.
        beams: rewarded strings by name of the reward.
        plain: requests to search with and their plain answers; None if the budget did not allow it.
        held_out: the same that strings are tried on.
        notes: what could not be done, and why.
    """

    trials: list[Trial] = field(default_factory=list)
    motifs: list[Motif] = field(default_factory=list)
    leaked: int = 0
    effects: list[Effect] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    tokens_tried: int = 0
    vocabulary: int = 0
    beams: dict[str, list[tuple[Candidate, float]]] = field(default_factory=dict)
    plain: Requests | None = None
    held_out: Requests | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def working(self) -> list[Trial]:
        """Working triggers."""
        return [trial for trial in self.trials if trial.works]
