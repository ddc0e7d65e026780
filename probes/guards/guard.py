"""Guards: a score for every prompt at the cost of one prefill, read beside generation."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.capture.prompt_states import prompt_rows, prompt_states
from interp.checkpoint import Checkpoint
from interp.checks import require_type
from interp.data.padding import padded
from interp.data.prompt_sets import PromptSet
from interp.data.row_plan import RowPlan
from interp.data.rows import Row
from interp.errors import InputError, NumericalError
from interp.model import artifacts
from interp.model.origin import origin, require_origin
from interp.model.sites import layer_ranges
from probes.guards.conversations import Conversation, prompts_of
from probes.guards.evaluation import Evaluation, evaluate
from probes.guards.prefill import PrefillReader, PrefillStopped
from probes.guards.readout import SITE, Method, Readout, require_method
from probes.guards.threshold import Threshold, benign_halves
from probes.statistics.calibration import Platt

Progress = Callable[[int, int], None]
_BATCH_TOKENS = 8192


@dataclass(frozen=True)
class GuardScore:
    """What a guard says of one prompt.

    Attributes:
        score: the higher, the more harmful.
        flagged: whether it is above the threshold.
        probability: of being harmful, at the class balance of `Guard.calibrated`; None without.
    """

    score: float
    flagged: bool
    probability: float | None = None


class Seen:
    """What a guard saw of a prefill; filled when the pass has run."""

    def __init__(self, guard: "Guard", reader: PrefillReader) -> None:
        self._guard, self._reader = guard, reader

    @property
    def scores(self) -> list[GuardScore]:
        """Of every row of the batch, in its order.

        Raises:
            InputError: no pass was run.
            NumericalError: a score is NaN or infinite.
        """
        if self._reader.found is None:
            raise InputError(
                "the guard has seen no prefill; run the model inside of `with guard.watching`."
            )
        return self._guard.judged(self._reader.found.cpu().numpy().astype(float))


@dataclass(frozen=True)
class Guard:
    """Reads whether a prompt is harmful at the last token of its instruction.

    Attributes:
        checkpoint: it belongs to.
        method: `centred` and `paper` as in `LatentGuard`, or `probe`; see `Readout.fit`.
        readout: the fitted score.
        threshold: where flagging begins.
        template: further arguments of the chat template.
        platt: from scores to probabilities, if `calibrated`.
        record: hashes of the prompts, their numbers, and the seed.
    """

    checkpoint: Checkpoint
    method: Method
    readout: Readout
    threshold: Threshold
    template: Mapping[str, Any] = field(default_factory=dict)
    platt: Platt | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Guard({self.method}, {SITE} of layers {layer_ranges(self.readout.layers)} at t_inst, "
            f"threshold {self.threshold.value:.4g}, "
            f"{'no ' * (self.platt is None)}probabilities, of {self.checkpoint.name})"
        )

    @classmethod
    def fit(
        cls,
        checkpoint: Checkpoint,
        harmful: PromptSet,
        harmless: PromptSet,
        *,
        benign: PromptSet | None = None,
        fpr: float = 0.01,
        method: Method = "centred",
        template: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch_tokens: int = _BATCH_TOKENS,
        progress: Progress | None = None,
    ) -> "Guard":
        """Fit a guard, and set its threshold on benign traffic if there is some.

        One random half of the benign prompts sets the threshold; the other half says, with an
        interval, what its false-positive rate is. That holds for traffic of the same sources only.
        Without benign prompts, and always with `paper`, the threshold is 0 as published.

        Args:
            checkpoint: with a chat template.
            harmful: prompts; the paper takes 100 of each.
            harmless: prompts.
            benign: prompts as they will come in; those that are among the others are left out.
            fpr: wanted false-positive rate.
            method: as in the class.
            template: further arguments of the chat template, such as `enable_thinking`.
            seed: of the halves and of the folds of `probe`.
            batch_tokens: most tokens in a batch.
            progress: called with (prompts done, prompts in all).

        Raises:
            InputError: an empty class, a prompt that is in both, no chat template, or too few
                benign prompts for the rate.
            NumericalError: a state is NaN or infinite.
        """
        require_type(checkpoint, Checkpoint, "checkpoint", "load one with mechguard.load(source)")
        _require_classes(harmful, harmless)
        if benign is not None:
            _require_prompts(benign, "benign")
        template = dict(template or {})
        record = {
            "harmful": {"n": len(harmful), "sha256": harmful.sha256},
            "harmless": {"n": len(harmless), "sha256": harmless.sha256},
            "seed": seed,
        }
        wanted = None if method == "paper" else fpr
        halves = None
        if benign is not None:
            halves = benign_halves(benign, harmful + harmless, wanted, seed)
            record["benign"] = {"n": sum(map(len, halves)), "sha256": benign.sha256}
        rows = prompt_rows(checkpoint, harmful + harmless, **template)
        states = prompt_states(
            checkpoint, rows, site=SITE, batch_tokens=batch_tokens, progress=progress
        )
        readout = Readout.fit(states.t_inst, np.arange(len(rows)) < len(harmful), method, seed)
        guard = cls(checkpoint, method, readout, Threshold(0.0), template, None, record)
        if halves is None:
            return guard
        set_on, confirmed_on = (
            guard.scores(half, batch_tokens=batch_tokens, progress=progress) for half in halves
        )
        return replace(guard, threshold=Threshold.on_benign(set_on, confirmed_on, wanted))

    def calibrated(self, harmful: PromptSet, harmless: PromptSet) -> "Guard":
        """The same guard with probabilities, by Platt's method on held-out prompts.

        They are right for the balance of harmful and harmless prompts given here. Traffic mostly
        has far fewer harmful ones.

        Args:
            harmful: prompts that the guard was not fitted on.
            harmless: the same.

        Raises:
            InputError: a class is empty.
        """
        _require_classes(harmful, harmless)
        scores = self.scores(harmful + harmless)
        return replace(self, platt=Platt.fit(scores, np.arange(len(scores)) < len(harmful)))

    def evaluate(self, harmful: PromptSet, benign: PromptSet) -> Evaluation:
        """Measure the guard on prompts that it was neither fitted nor calibrated on.

        Args:
            harmful: prompts that should be flagged.
            benign: prompts that should not.

        Raises:
            InputError: a class is empty.
        """
        _require_classes(harmful, benign)
        return evaluate(
            self.scores(harmful), self.scores(benign), benign, self.threshold.value, self.platt
        )

    def rows(self, conversations: Sequence[Conversation]) -> list[Row]:
        """Conversations as the guard reads them: token ids and segments.

        Raises:
            InputError: one cannot be rendered, or is longer than the context.
        """
        return prompt_rows(self.checkpoint, prompts_of(conversations), **self.template)

    def score(self, messages: Conversation) -> GuardScore:
        """Score one conversation, by one prefill as far as the last layer that is read.

        Args:
            messages: of the conversation, or the text of a user's only message.

        Raises:
            InputError: it cannot be rendered, or is longer than the context.
            NumericalError: the score is NaN or infinite.
        """
        return self.score_many([messages])[0]

    def score_many(
        self,
        conversations: Sequence[Conversation],
        *,
        batch_tokens: int = _BATCH_TOKENS,
        progress: Progress | None = None,
    ) -> list[GuardScore]:
        """Score conversations in batches of like length, in their order.

        Raises:
            InputError: one cannot be rendered, or is longer than the context.
            NumericalError: a score is NaN or infinite.
        """
        return self.judged(self._scores(self.rows(conversations), batch_tokens, progress))

    def scores(
        self,
        prompts: PromptSet,
        *,
        batch_tokens: int = _BATCH_TOKENS,
        progress: Progress | None = None,
    ) -> Float[np.ndarray, " n"]:
        """The bare scores of prompts, in their order.

        Raises:
            InputError: one cannot be rendered, or is longer than the context.
            NumericalError: a score is NaN or infinite.
        """
        _require_prompts(prompts, "prompts")
        rows = prompt_rows(self.checkpoint, prompts, **self.template)
        scores = self._scores(rows, batch_tokens, progress)
        _require_numbers(scores)
        return scores

    @contextmanager
    def watching(self, rows: Sequence[Row]) -> Iterator[Seen]:
        """Read the scores in the prefill of a pass or a `generate` of the user's own.

        The first pass inside is read, at t_inst of every row; decode steps are not. The batch may
        be padded on either side. Nothing is changed: the tokens are those without a guard.

            rows = guard.rows(conversations)
            with guard.watching(rows) as seen:
                out = model.generate(**padded(rows, checkpoint, "left"))
            seen.scores

        Args:
            rows: of the batch, in its order.

        Raises:
            InputError: no row, or a batch that does not hold these rows.
        """
        if not rows:
            raise InputError("a guard needs at least one row to watch.")
        reader = PrefillReader(self.checkpoint, self.readout, rows)
        with reader.open():
            yield Seen(self, reader)

    def judged(self, scores: Float[np.ndarray, " n"]) -> list[GuardScore]:
        """Scores with decisions and probabilities.

        Raises:
            NumericalError: a score is NaN or infinite.
        """
        _require_numbers(scores)
        likely = [None] * len(scores) if self.platt is None else self.platt(scores).tolist()
        return [
            GuardScore(score, score > self.threshold.value, probability)
            for score, probability in zip(scores.tolist(), likely, strict=True)
        ]

    def _scores(
        self, rows: Sequence[Row], batch_tokens: int, progress: Progress | None
    ) -> Float[np.ndarray, " n"]:
        if not rows:
            return np.zeros(0)
        decoder: Any = self.checkpoint.decoder
        found = np.empty(len(rows))
        done = 0
        for batch in RowPlan.make(rows, batch_tokens).batches:
            own = [rows[index] for index in batch]
            reader = PrefillReader(self.checkpoint, self.readout, own, stop=True)
            with reader.open(), torch.inference_mode(), suppress(PrefillStopped):
                decoder(**padded(own, self.checkpoint), use_cache=False)
            if reader.found is None:
                raise InputError(f"the layers of {self.checkpoint.name} never ran in the prefill.")
            found[list(batch)] = reader.found.cpu().numpy()
            done += len(batch)
            if progress is not None:
                progress(done, len(rows))
        return found

    def save(self, path: Path, evaluation: Evaluation | None = None) -> Path:
        """Write the guard, and what was measured, to one file.

        Raises:
            InputError: the file cannot be written.
        """
        meta = {
            "origin": origin(self.checkpoint),
            "method": self.method,
            "site": SITE,
            "segment": "t_inst",
            "layers": list(self.readout.layers),
            "cosine": self.readout.cosine,
            "bias": self.readout.bias,
            "threshold": asdict(self.threshold),
            "template": dict(self.template),
            "platt": None if self.platt is None else asdict(self.platt),
            "record": dict(self.record),
            "evaluation": None if evaluation is None else evaluation.summary(),
        }
        tensors = {
            "weights": torch.as_tensor(self.readout.weights),
            "centres": torch.as_tensor(self.readout.centres),
        }
        return artifacts.save(path, artifacts.Artifact("guard", tensors, meta))

    @classmethod
    def load(cls, path: Path, checkpoint: Checkpoint, *, allow: Collection[str] = ()) -> "Guard":
        """Read a guard for the checkpoint that it was made on.

        Args:
            path: of the file.
            checkpoint: to guard.
            allow: what may differ all the same, as in `interp.model.origin.require_origin`.

        Raises:
            InputError: the file is missing or damaged, holds no guard, or belongs to another
                model, chat template or number of layers.
        """
        artifact = artifacts.load(path, "guard")
        require_origin("guard", artifact.meta, checkpoint, allow=allow)
        meta = artifact.meta
        readout = Readout(
            tuple(meta["layers"]),
            artifact.tensors["weights"].numpy(),
            artifact.tensors["centres"].numpy(),
            meta["bias"],
            meta["cosine"],
        )
        _require_guard(path, artifact)
        threshold = Threshold.from_dict(meta["threshold"])
        platt = None if meta["platt"] is None else Platt(**meta["platt"])
        method, template, record = require_method(meta["method"]), meta["template"], meta["record"]
        if readout.layers[-1] >= checkpoint.anatomy.n_layers:
            raise InputError(
                f"this guard reads layer {readout.layers[-1]}, and {checkpoint.name} has "
                f"{checkpoint.anatomy.n_layers}."
            )
        return cls(checkpoint, method, readout, threshold, template, platt, record)


def _require_guard(path: Path, artifact: artifacts.Artifact) -> None:
    """Check what only this class knows of the file of a guard."""
    meta, layers = artifact.meta, artifact.meta["layers"]
    known = {each.name for each in fields(Threshold)}, {each.name for each in fields(Platt)}
    said = ""
    if (meta["site"], meta["segment"]) != (SITE, "t_inst"):
        said = f"it reads {meta['site']} at {meta['segment']}, and a guard {SITE} at t_inst"
    elif layers != sorted(set(layers)):
        said = "its layers are not once each in their order"
    elif not set(meta["threshold"]) <= known[0] or not set(meta["platt"] or {}) <= known[1]:
        said = "its threshold or platt has a field that there is not"
    if said:
        raise InputError(f"{path} is no complete guard: {said}; make it anew.")


def _require_prompts(given: PromptSet, name: str) -> None:
    require_type(given, PromptSet, name, "read a file with mechguard.read_prompts(path, label)")


def _require_classes(harmful: PromptSet, harmless: PromptSet) -> None:
    for name, some in (("harmful", harmful), ("harmless", harmless)):
        _require_prompts(some, name)
        if not len(some):
            raise InputError(f"there is no {name} prompt; a guard needs both classes.")
    both = {prompt.text for prompt in harmful} & {prompt.text for prompt in harmless}
    if both:
        raise InputError(
            f"{len(both)} prompts are given as harmful and as harmless, the first being "
            f"{min(both)[:60]!r}; leave each in one class."
        )


def _require_numbers(scores: Float[np.ndarray, " n"]) -> None:
    if not np.isfinite(scores).all():
        raise NumericalError(
            f"the score of row {int(np.flatnonzero(~np.isfinite(scores))[0])} is NaN or infinite; "
            "load the model in float32 or bfloat16."
        )
