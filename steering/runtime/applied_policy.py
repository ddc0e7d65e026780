"""What a policy has decided for the rows of the batch, and the edit that follows from it."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import NumericalError
from steering.runtime.gates import Opening
from steering.runtime.operators import move, operate, prepared
from steering.runtime.plan import PolicyLike
from steering.runtime.token_positions import Chosen, Clock, Found


class AppliedPolicy:
    """A policy at work: gathers what its gate reads, decides once for each row, and edits.

    All that decode steps need is worked out when the decision falls, so that an edit there is one
    addition, and a selection if some rows are closed.

    Attributes:
        policy: which.
        known: whether anything was decided for the prompts under way.
        inert: edits nothing, as while gates are only read.
        steady: nothing that it reads or edits changes any more until `generate` ends.
    """

    def __init__(self, policy: PolicyLike, devices: list[torch.device], dtype: torch.dtype) -> None:
        self.policy = policy
        self.place(devices, dtype)
        self.fused = policy.operator == "add" and not policy.keep_norm
        self.late, self.inert = policy.late, False
        self.mask: Literal[True] | tuple[Tensor, ...] | None = None
        self.forget()

    def place(self, devices: list[torch.device], dtype: torch.dtype) -> None:
        """Prepare the directions where they are added, and what is added in the states' type.

        Args:
            devices: of the policy's sites.
            dtype: of the states.
        """
        policy, self.devices, self.dtype = self.policy, devices, dtype
        where = list(zip(policy.directions, devices, strict=True))
        self.directions = [
            prepared(policy.operator, v.to(device, torch.float32)) for v, device in where
        ]
        self.readers: list[Tensor] = []
        if policy.readers is not None:
            self.readers = [
                c.to(device, torch.float32)
                for c, device in zip(policy.readers, devices, strict=True)
            ]

    def forget(self) -> None:
        """Drop all decisions."""
        self.known = self.settled = self.steady = False
        self.score: Tensor | None = None
        self.gate: Tensor | None = None
        self.scale: Tensor | None = None
        self.decided: Tensor | None = None
        self.mask = None
        self._weights: Tensor | None = None
        self._moves: list[Tensor] = []
        self._flags: tuple[bool, bool] | None = None
        self._span: Chosen = None
        self._part: slice | None = None
        self._find: Found = None
        self._states: list[Tensor] = []

    def prepare(self, clock: Clock, strength: Float[Tensor, " prompts"]) -> None:
        """Work out what this pass reads and edits.

        Args:
            clock: which has located the pass.
            strength: of each prompt, used where the gate decides.
        """
        self._clock, self._strength = clock, strength
        self._states = []
        reads = bool(self.policy.gate.reads)
        if not reads and not self.known:
            self._decide(torch.zeros(len(strength), 0, self.policy.width), None)
        self._find = clock.find(self.policy.gate.position) if reads and not self.settled else None
        if clock.decoding and self._flags is None and self.known:
            self._flags = self._settle()
        span = self.policy.span
        self._span = clock.span(span)
        self._mask()
        # Once all tokens are new ones, a span that neither begins nor ends among these is constant.
        self.steady = self._flags is not None and max(span.start or 0, span.stop or 0) <= 0

    def read(self, x: Float[Tensor, "rows tokens width"]) -> None:
        """Gather the decision token's state at the next site that the gate reads."""
        if self._find is not None:
            self._gather(x)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _gather(self, x: Tensor) -> None:
        found = self._find
        assert found is not None  # `read` asks for it first
        present: Tensor | None = None
        if isinstance(found, int):
            states = x[:, found]
        else:
            present, column = (some.to(x.device) for some in found)
            states = x[torch.arange(len(x), device=x.device), column]
        self._states.append(states)
        if len(self._states) == len(self.policy.gate.reads):
            device = x.device
            states = torch.stack([s.to(device) for s in self._states], 1)
            self._states = []
            group = self._clock.group
            self._decide(states[::group], None if present is None else present[::group])
            self._mask()

    def edit(self, index: int, x: Float[Tensor, "rows tokens width"]) -> Tensor:
        """The state of a site behind the policy, which has something to edit in this pass."""
        mask, part = self.mask, self._part
        assert mask is not None  # the caller asks for it first
        whole = x
        if part is not None:
            x = x[:, part]
        if self.fused:
            moved = x + self._moves[index]
        else:
            moved = operate(
                self.policy.operator,
                x,
                self.directions[index],
                self._moves[index],
                self.readers[index] if self.readers else None,
                self.policy.keep_norm,
            )
        if mask is not True:
            moved = torch.where(mask[index], moved, x)
        if part is not None:
            moved = torch.cat([whole[:, : part.start], moved, whole[:, part.stop :]], 1)
        return moved

    def _decide(
        self,
        states: Float[Tensor, "prompts reads width"],
        present: Bool[Tensor, " prompts"] | None,
    ) -> None:
        """Open or close the rows whose decision token was in this pass; the first time counts."""
        opening: Opening = self.policy.gate.to(states.device)(states)
        strength = self._strength.to(opening.strength.device)
        scale = self.policy.strength * strength * opening.strength
        # Not by a product alone, so that strength 0 closes a row whatever its gate says.
        scale = torch.where(strength == 0, torch.zeros_like(scale), scale)
        weights = torch.tensor(self.policy.weights, device=scale.device).expand(len(scale), -1)
        if opening.weights is not None:
            weights = weights * opening.weights
        if present is None:
            self.score, self.gate, self.scale = opening.score, opening.strength, scale
            self._weights, self.decided = weights, torch.ones_like(scale, dtype=torch.bool)
            self.settled = True
        else:
            self._merge(opening, scale, weights, present)
        self.known = True
        self._spread()

    def _merge(self, opening: Opening, scale: Tensor, weights: Tensor, present: Tensor) -> None:
        if self.decided is None:
            self.score = torch.full_like(scale, torch.nan)
            self.gate, self.scale = torch.zeros_like(scale), torch.zeros_like(scale)
            self._weights, self.decided = weights, torch.zeros_like(present)
        assert self.score is not None and self.gate is not None and self.scale is not None
        assert self._weights is not None
        now = present & ~self.decided
        self.score = torch.where(now, opening.score, self.score)
        self.gate = torch.where(now, opening.strength, self.gate)
        self.scale = torch.where(now, scale, self.scale)
        self._weights = torch.where(now[:, None], weights, self._weights)
        self.decided = self.decided | present

    def _spread(self) -> None:
        """From decisions on prompts to what every row of the batch adds at every site."""
        assert self.scale is not None and self._weights is not None
        group = self._clock.group
        each = (self.scale[:, None] * self._weights).repeat_interleave(group, 0)
        self._open = (self.scale != 0).repeat_interleave(group, 0)
        self._moves = []
        for index, (direction, device) in enumerate(
            zip(self.directions, self.devices, strict=True)
        ):
            moved_by = move(self.policy.operator, direction, each[:, index].to(device))
            self._moves.append(moved_by.to(self.dtype) if self.fused else moved_by)

    def _settle(self) -> tuple[bool, bool]:
        """Whether any row is open, and all are: read once, before the first decode step.

        Raises:
            NumericalError: a gate's read-out is NaN or infinite.
        """
        assert self.score is not None
        self.require_numbers()
        return bool(self._open.any()), bool(self._open.all())

    def require_numbers(self) -> None:
        """Refuse a read-out that is no number, which would close its row in silence.

        Raises:
            NumericalError: naming the prompt.
        """
        if self.score is None or self.decided is None or self.scale is None:
            return
        bad = self.decided & ~(torch.isfinite(self.score) & torch.isfinite(self.scale))
        if bool(bad.any()):
            raise NumericalError(
                f"the gate of policy {self.policy.name} read NaN or infinity from prompt "
                f"{int(bad.nonzero()[0])}; load the model in float32 or bfloat16."
            )

    def _mask(self) -> None:
        """Which tokens of which rows this pass edits."""
        span = self._span
        self._part = span if isinstance(span, slice) else None
        if span is None or not self.known or self.inert:
            self.mask = None
            return
        if self._flags is not None and span is True:
            some, every = self._flags
            if not some or every:
                self.mask = True if every else None
                return
        open_rows = self._open[:, None]
        chosen = open_rows
        if isinstance(span, Tensor):
            chosen = span.to(open_rows.device) & open_rows
        there = {device: chosen[..., None].to(device) for device in set(self.devices)}
        self.mask = tuple(there[device] for device in self.devices)
