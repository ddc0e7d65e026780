"""Policies attached to a model: the hooks, and what they decided."""

import copy
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp.checkpoint import Checkpoint
from interp.checks import named
from interp.errors import InputError, UnsupportedModelError
from interp.interventions.hooks import finite
from interp.model.sites import Site
from steering.runtime.applied_policy import AppliedPolicy
from steering.runtime.generate_hooks import compiled_from, generating, hooked, told_prompt
from steering.runtime.plan import Plan
from steering.runtime.token_positions import Clock

Strength = float | Sequence[float] | Sequence[Sequence[float]] | Tensor

_attached: "weakref.WeakKeyDictionary[nn.Module, Attachment]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Decision:
    """What a policy does with a prompt.

    Attributes:
        row: of the batch, before beams or samples are drawn.
        policy: its name.
        score: the gate's read-out; None without a gate.
        gate: the gate's strength, 0 when closed.
        scale: α · strength of the row · gate, which multiplies the directions.
        open: whether the row is steered.
    """

    row: int
    policy: str
    score: float | None
    gate: float
    scale: float
    open: bool


class Attachment:
    """Policies that are attached to a model, until `detach`.

    Attributes:
        checkpoint: what is steered.
        composition: the policies, in the order in which they act.
        passes: passes with a prompt so far.
    """

    def __init__(self, checkpoint: Checkpoint, policies: Plan, strength: Strength) -> None:
        self.checkpoint, self.composition = checkpoint, policies
        self.passes = 0
        self._clock = Clock()
        self._reading = self._steady = False
        self._handles: list[Any] = []
        self._restore: Callable[[], None] | None = None
        self._steered = [
            AppliedPolicy(policy, [self._device(site) for site in policy.sites], checkpoint.dtype)
            for policy in policies.policies
        ]
        self._parts: dict[Site, list[tuple[AppliedPolicy, int]]] = {}
        for steered in self._steered:
            for index in steered.policy.edits:
                site = steered.policy.sites[index]
                self._parts.setdefault(site, []).append((steered, index))
        self._fired = torch.zeros(len(self._parts), dtype=torch.long)
        self.strength = strength

    @property
    def strength(self) -> Tensor:
        """Of each policy in each row, [policies, rows or 1]; may be set between prompts."""
        return self._strength

    @strength.setter
    def strength(self, given: Strength) -> None:
        self._strength = _strengths(given, self.composition)

    @property
    def fired(self) -> dict[Site, int]:
        """In how many passes with a prompt each edited site was reached."""
        return dict(zip(self._parts, self._fired.tolist(), strict=True))

    @property
    def decisions(self) -> list[Decision]:
        """On the last prompts, row by row and policy by policy.

        Raises:
            InputError: no prompt was run, or a gate never saw its decision token.
            NumericalError: a read-out is NaN or infinite.
        """
        if not self.passes:
            raise InputError("nothing was decided yet; run a prompt with the policy attached.")
        self._require_decided()
        columns = []
        for steered in self._steered:
            steered.require_numbers()
            assert steered.score is not None and steered.gate is not None  # it has decided
            assert steered.scale is not None
            gated = bool(steered.policy.gate.reads)
            columns.append(
                [
                    Decision(
                        row, steered.policy.name, score if gated else None, gate, scale, scale != 0
                    )
                    for row, (score, gate, scale) in enumerate(
                        zip(
                            steered.score.detach().tolist(),
                            steered.gate.detach().tolist(),
                            steered.scale.detach().tolist(),
                            strict=True,
                        )
                    )
                ]
            )
        return [decision for row in zip(*columns, strict=True) for decision in row]

    def prompts(self, lengths: Sequence[int] | Tensor) -> AbstractContextManager[None]:
        """Say how long the prompts are in the passes inside, which are all of one batch.

        For passes outside of `generate`: over prompts with replies, or step by step without a
        cache. Gates decide once.

        Args:
            lengths: tokens of each row's prompt, padding not counted.

        Raises:
            InputError: they are no positive whole numbers.
        """
        return self._clock.announced(lengths)

    def detach(self) -> None:
        """Leave the model as it was; further calls do nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._restore is not None:
            self._restore()
            self._restore = None
        for steered in self._steered:
            steered.inert, steered.mask = True, None  # for graphs that were compiled meanwhile
        if _attached.get(self.checkpoint.model) is self:
            del _attached[self.checkpoint.model]

    def verify(self) -> None:
        """Refuse to have steered nothing in silence.

        Raises:
            InputError: a site was never reached, or a gate never saw its decision token.
            NumericalError: a read-out is NaN or infinite.
        """
        if not self.passes:
            return
        self._require_decided()
        for steered in self._steered:
            steered.require_numbers()
        if silent := [site.hook_name for site, count in self.fired.items() if not count]:
            raise InputError(
                f"the model ran {self.passes} prompt(s), but {', '.join(silent)} was never "
                "reached; is a layer skipped, or was the model compiled before it was steered?"
            )

    def attach(self) -> None:
        """Register the hooks: first those that read a site, then those that edit it."""
        model, layers = self.checkpoint.model, self.checkpoint.layers
        try:
            self._handles = [
                self.checkpoint.decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
                layers[0].register_forward_pre_hook(self._locate, with_kwargs=True),
            ]
            for steered in self._steered:
                for site in steered.policy.gate.reads:
                    self._handles.append(hooked(layers, site, steered.read))
            for number, (site, parts) in enumerate(self._parts.items()):
                edit = functools.partial(self._edit, number, parts)
                self._handles.append(hooked(layers, site, edit))
            self._restore = generating(model, self._generation)
            _attached[model] = self
        except BaseException:
            self.detach()
            raise

    def _device(self, site: Site) -> torch.device:
        assert site.layer is not None  # a policy edits layers
        parameter = next(self.checkpoint.layers[site.layer].parameters(), None)
        device = self.checkpoint.device if parameter is None else parameter.device
        return device if device.type != "meta" else self.checkpoint.device

    @contextmanager
    def _generation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """In force while `generate` runs."""
        if self._clock.generating:
            raise InputError(
                "the steered model was asked to generate for itself (assistant_early_exit, or "
                "itself as the assistant); use another assistant, or prompt_lookup_num_tokens."
            )
        columns, lengths, past = told_prompt(self.checkpoint.model, args, kwargs)
        before = self.passes
        try:
            with (
                self._clock.generation(columns, lengths, past),
                compiled_from(self.checkpoint.model, lambda: self._steady),
            ):
                yield
        finally:
            self._steady = False
        if self.passes > before:
            self._require_decided()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass of the decoder starts."""
        if not (self._reading or self._steady):
            self._follow(module, args, kwargs)

    def _locate(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The first layer is told its positions."""
        if not self._steady:
            self._prepare(kwargs.get("position_ids"))

    # What these two do is no matter for a compiler; steady decode steps go without them, and are
    # one graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _follow(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._clock.begin(args, kwargs)
        if self._clock.new:
            if self.passes:
                self._require_decided()
            self.passes += 1
            for steered in self._steered:
                steered.forget()
        if any(self._needs_reading(steered) for steered in self._steered):
            self._read_only(module, args, kwargs)

    def _needs_reading(self, steered: AppliedPolicy) -> bool:
        """Whether this pass would edit, below its gate, tokens that it has not decided on yet."""
        if not steered.late or steered.settled:
            return False
        policy, clock = steered.policy, self._clock
        here = clock.holds(policy.gate.position)
        if here is None:
            steered.settled = steered.decided is not None and bool(steered.decided.all())
            return not steered.settled
        return here and clock.reaches(policy.span)

    def _read_only(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the pass once for the gates alone, on a copy of the cache."""
        past = kwargs.get("past_key_values")
        own = {**kwargs, "past_key_values": copy.deepcopy(past)}
        if past is None:
            own["use_cache"] = False
        self._reading = True
        late = [steered for steered in self._steered if steered.late]
        try:
            for steered in late:
                steered.inert = True
            module(*args, **own)
        finally:
            self._reading = False
            for steered in late:
                steered.inert = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _prepare(self, positions: Tensor | None) -> None:
        if positions is None:
            raise UnsupportedModelError(
                "this family's decoder layers receive no position_ids, so a policy cannot tell the "
                "prompt from the reply."
            )
        clock = self._clock
        clock.locate(positions)
        prompts = clock.rows // clock.group
        if self._strength.shape[1] not in (1, prompts):
            raise InputError(
                f"strength is given for {self._strength.shape[1]} rows, but the batch has "
                f"{prompts}; give one for each row, or one for all."
            )
        for steered, strength in zip(self._steered, self._strength, strict=True):
            steered.prepare(clock, strength.expand(prompts))
        self._steady = all(steered.steady for steered in self._steered)

    def _edit(
        self, number: int, parts: list[tuple[AppliedPolicy, int]], x: Tensor
    ) -> Tensor | None:
        if self._clock.new and not self._reading:
            self._fired[number] += 1
        edited = None
        for steered, index in parts:
            if steered.mask is not None:
                edited = steered.edit(index, x if edited is None else edited)
        return edited

    def _require_decided(self) -> None:
        for steered in self._steered:
            policy = steered.policy
            if not policy.gate.reads or steered.settled:
                continue
            if steered.decided is None or not bool(steered.decided.all()):
                raise InputError(
                    f"policy {policy.name} decides at position {policy.gate.position} of the "
                    "prompt, and a prompt had no such token in any pass: it is too short, or its "
                    "end is in the cache already."
                )
            steered.settled = True


def is_steered(model: nn.Module) -> bool:
    """Whether policies are attached to a model."""
    return model in _attached


def _strengths(given: Strength, policies: Plan) -> Tensor:
    """As [policies, rows or 1], in float32.

    Raises:
        InputError: it is no number, not finite, or does not fit the composition.
    """
    count = len(policies.policies)
    try:
        strength = finite(torch.as_tensor(given, dtype=torch.float32), "strength")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"strength is {named(given)}; give one number, one for each row, or [{count} "
            "policies, rows]."
        ) from error
    if strength.ndim > 2 or (strength.ndim == 2 and len(strength) != count):
        raise InputError(
            f"strength has shape {list(strength.shape)}; give one number, one for each row, or "
            f"[{count} policies, rows]."
        )
    strength = strength.reshape(1, -1) if strength.ndim < 2 else strength
    strength = strength.expand(count, -1)
    if policies.rows is None:
        return strength
    if strength.shape[1] not in (1, policies.rows.shape[1]):
        raise InputError(
            f"strength is given for {strength.shape[1]} rows, and policies for "
            f"{policies.rows.shape[1]}; give one of each for every row."
        )
    return strength * policies.rows
