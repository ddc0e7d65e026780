"""Policies attached to a model: the hooks, and what they decided."""

import copy
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from interp.checkpoint import Checkpoint
from interp.errors import InputError, UnsupportedModelError
from interp.model.sites import Site
from steering.runtime.applied_policy import AppliedPolicy
from steering.runtime.copies import copying_bare
from steering.runtime.decisions import Decision, decided
from steering.runtime.generate_hooks import compiled_from, generating, hooked, told_prompt
from steering.runtime.plan import Plan, PolicyLike
from steering.runtime.strengths import Strength, strengths
from steering.runtime.threads import Turn
from steering.runtime.token_positions import Clock

_attached: "weakref.WeakKeyDictionary[nn.Module, Attachment]" = weakref.WeakKeyDictionary()


class Attachment:
    """Policies that are attached to a model, until `detach`.

    Attributes:
        checkpoint: what is steered.
        composition: the policies, in the order in which they act.
        passes: passes with a prompt so far; one that was aborted does not count.
    """

    def __init__(self, checkpoint: Checkpoint, policies: Plan, strength: Strength) -> None:
        self.checkpoint, self.composition = checkpoint, policies
        self.passes = 0
        self._clock, self._turn = Clock(), Turn()
        self._reading = self._steady = False
        # Whether there is a prompt to be decided on, and the pass under way is its first.
        self._begun = self._first = False
        self._handles: list[Any] = []
        self._restore: list[Callable[[], None]] = []
        self._placed = self._places(policies.policies)
        self._steered = [
            AppliedPolicy(policy, devices, checkpoint.dtype)
            for policy, devices in zip(policies.policies, self._placed[1], strict=True)
        ]
        self._parts: dict[Site, list[tuple[AppliedPolicy, int]]] = {}
        for steered in self._steered:
            for index in steered.policy.edits:
                site = steered.policy.sites[index]
                self._parts.setdefault(site, []).append((steered, index))
        self._fired = torch.zeros(len(self._parts), dtype=torch.long)
        self._fired_before = self._fired.clone()
        self.strength = strength

    @property
    def strength(self) -> Tensor:
        """Of each policy in each row, [policies, rows or 1]; may be set between prompts."""
        return self._strength

    @strength.setter
    def strength(self, given: Strength) -> None:
        self._strength = strengths(given, self.composition)

    @property
    def fired(self) -> dict[Site, int]:
        """In how many passes with a prompt each edited site was reached."""
        return dict(zip(self._parts, self._fired.tolist(), strict=True))

    @property
    def decisions(self) -> list[Decision]:
        """On the last prompts, row by row and policy by policy.

        Raises:
            InputError: no prompt was run whole, or a gate never saw its decision token.
            NumericalError: a read-out is NaN or infinite.
        """
        if not self._begun or (self._turn.passing and self._first):
            raise InputError(
                "nothing was decided yet, or the last pass with a prompt was aborted; run a prompt "
                "with the policy attached."
            )
        self._require_decided()
        return decided(self._steered)

    @contextmanager
    def prompts(self, lengths: Sequence[int] | Tensor) -> Iterator[None]:
        """Say how long the prompts are in the passes inside, which are all of one batch.

        For passes outside of `generate`: over prompts with replies, or step by step without a
        cache. Gates decide once.

        Args:
            lengths: tokens of each row's prompt, padding not counted.

        Raises:
            InputError: they are no positive whole numbers, or another thread is at work.
        """
        with self._turn.held(), self._clock.announced(lengths):
            try:
                yield
            except BaseException:
                self._give_up()
                raise

    def detach(self) -> None:
        """Leave the model as it was; further calls do nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        while self._restore:
            self._restore.pop()()
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
        if self._turn.passing and self._first:
            self._turn.end()
            self._abandon()
        if not self.passes:
            return
        if self._begun:
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
        decoder = self.checkpoint.decoder
        try:
            self._handles = [
                decoder.register_forward_pre_hook(self._begin, with_kwargs=True),
                # An exception in the pass calls this hook too.
                decoder.register_forward_hook(self._end, always_call=True),
                layers[0].register_forward_pre_hook(self._locate, with_kwargs=True),
            ]
            for steered in self._steered:
                for site in steered.policy.gate.reads:
                    self._handles.append(hooked(layers, site, steered.read))
            for number, (site, parts) in enumerate(self._parts.items()):
                edit = functools.partial(self._edit, number, parts)
                self._handles.append(hooked(layers, site, edit))
            self._restore.append(generating(model, self._generation))
            self._restore.append(copying_bare([model, decoder, *layers], self._handles))
            _attached[model] = self
        except BaseException:
            self.detach()
            raise

    def __deepcopy__(self, memo: dict[int, Any]) -> "Attachment":
        raise InputError(
            "an attachment cannot be copied; copy the model, which is detached then, and attach "
            "the policy to the copy."
        )

    def _places(
        self, policies: Sequence[PolicyLike]
    ) -> tuple[torch.dtype, list[list[torch.device]]]:
        """The type of the states, and where each site of each policy lies."""
        devices = [[self._device(site) for site in policy.sites] for policy in policies]
        return self.checkpoint.dtype, devices

    def _device(self, site: Site) -> torch.device:
        assert site.layer is not None  # a policy edits layers
        parameter = next(self.checkpoint.layers[site.layer].parameters(), None)
        device = self.checkpoint.device if parameter is None else parameter.device
        return device if device.type != "meta" else self.checkpoint.device

    @contextmanager
    def _generation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """In force while `generate` runs."""
        with self._turn.held():
            if self._clock.generating:
                raise InputError(
                    "the steered model was asked to generate for itself (assistant_early_exit, or "
                    "itself as the assistant); use another assistant, or prompt_lookup_num_tokens."
                )
            told = told_prompt(self.checkpoint.model, args, kwargs)
            before = self.passes
            try:
                with (
                    self._clock.generation(*told),
                    compiled_from(self.checkpoint.model, lambda: self._steady),
                ):
                    yield
            except BaseException:
                self._give_up()
                raise
            finally:
                self._steady = False
            if self.passes > before and (missed := self._undecided()):
                self._forget()  # told once; the next prompt is another one
                raise _no_token(missed)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A pass of the decoder starts."""
        if not (self._reading or self._steady):
            self._follow(module, args, kwargs)
        elif not torch.compiler.is_compiling():
            self._turn.require()

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A pass of the decoder has ended, or was aborted: then there is no output."""
        if self._turn.passing and not self._reading:
            self._finish(output is None)

    def _locate(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The first layer is told its positions."""
        if not self._steady:
            self._prepare(kwargs.get("position_ids"))

    # What these three do is no matter for a compiler; steady decode steps go without them, and are
    # one graph.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _follow(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._turn.begin() and self._first:
            self._abandon()  # nothing told its end, as where the user interrupts a bare pass
        self._first = False
        self._clock.begin(args, kwargs)
        if self._clock.new:
            self._begin_prompt()
        self._place()
        if any(self._needs_reading(steered) for steered in self._steered):
            self._read_only(module, args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _finish(self, aborted: bool) -> None:
        if self._turn.end() and aborted and self._first:
            self._abandon()

    def _begin_prompt(self) -> None:
        """Forget the prompt before, and refuse to go on where its gate never saw its token."""
        missed = self._undecided() if self._begun else None
        self._forget()
        if missed:
            self._clock.restart()
            raise _no_token(missed)
        self._fired_before = self._fired.clone()
        self.passes += 1
        self._begun = self._first = True

    def _forget(self) -> None:
        self._begun = self._first = False
        for steered in self._steered:
            steered.forget()

    def _abandon(self) -> None:
        """Forget a prompt that was aborted, as if it had never begun."""
        self._forget()
        self.passes -= 1
        self._fired.copy_(self._fired_before)
        self._clock.restart()
        self._steady = False

    def _give_up(self) -> None:
        """An exception ends what held the passes of a prompt together."""
        aborted = self._turn.passing and self._first
        self._turn.end()
        if self._begun and (aborted or self._undecided()):
            self._abandon()

    def _place(self) -> None:
        """Follow a model that was moved, or is of another type than when it was attached.

        Raises:
            InputError: that happened between two passes of one prompt.
        """
        placed = self._places(self.composition.policies)
        if placed == self._placed:
            return
        if not self._clock.new:
            raise InputError(
                "the model was moved or changed its type after its prompt was run, and goes on "
                "from that prompt's cache; run the prompt anew."
            )
        for steered, devices in zip(self._steered, placed[1], strict=True):
            steered.place(devices, placed[0])
        self._placed = placed

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
        if missed := self._undecided():
            raise _no_token(missed)

    def _undecided(self) -> PolicyLike | None:
        """The first policy whose gate has not seen its decision token in every prompt."""
        for steered in self._steered:
            if not steered.policy.gate.reads or steered.settled:
                continue
            if steered.decided is None or not bool(steered.decided.all()):
                return steered.policy
            steered.settled = True
        return None


def _no_token(policy: PolicyLike) -> InputError:
    return InputError(
        f"policy {policy.name} decides at position {policy.gate.position} of the prompt, and a "
        "prompt had no such token in any pass: it is too short, or its end is in the cache already."
    )


def is_steered(model: nn.Module) -> bool:
    """Whether policies are attached to a model."""
    return model in _attached
