"""One forward pass over rows that feeds any number of recorders.

The way of a batch: rows → padded ids, mask and positions → the decoder, hooked at the sites that
somebody needs → one `LayerBatch` a layer, handed out when the layer ends and then dropped. The
pass stops after the last layer that anybody needs.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from interp.attention.eager import observe_weights
from interp.attention.kernels import AttentionStatistics, Demand
from interp.attention.statistics import (
    AttentionCall,
    AttentionPath,
    Tap,
    observe,
    require_interface,
)
from interp.capture import ranks
from interp.capture.plan import Workdir
from interp.capture.recorder import LayerBatch, Needs, Recorder
from interp.data.padding import padded
from interp.data.row_plan import RowPlan
from interp.data.rows import Row, Rows
from interp.errors import InputError
from interp.model.loaded import LoadedModel
from interp.model.sites import HANDED_OVER, Site, site_hook

log = logging.getLogger("mechguard.capture")


@dataclass(frozen=True)
class CaptureSummary:
    """What a capture did: rows and tokens of all ranks, seconds of this one."""

    rows: int
    tokens: int
    batches: int
    resumed: int
    seconds: float


class _Stop(Exception):
    """Raised inside the last needed layer to end the forward pass."""


def capture(
    checkpoint: LoadedModel,
    rows: Rows | Sequence[Row],
    recorders: Sequence[Recorder],
    *,
    batch_tokens: int = 8192,
    attention: AttentionPath = "auto",
    workdir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CaptureSummary:
    """Feed the recorders with one pass over all rows.

    Under `torchrun` every rank takes its share of the batches and holds the merged result at the
    end.

    Args:
        checkpoint: what to run.
        rows: of token ids; batched by length, right-padded, with attention mask and position ids.
        recorders: updated in place.
        batch_tokens: most tokens in a batch, padding included.
        attention: `auto` for statistics beside SDPA, `eager` for the model's own T×T weights.
        workdir: where each batch leaves a shard, so that a stopped run goes on where it was.
        progress: called with (rows done, rows in all) after every batch.

    Raises:
        InputError: no rows, two rows of one index, an unknown `attention`, a site that never
            fires, or a work folder of another run.
        NumericalError: something recorded is NaN or infinite; names layer and row.
        UnsupportedModelError: statistics are needed and the model bypasses the interface.
    """
    rows = list(rows.rows if isinstance(rows, Rows) else rows)
    if not rows or not recorders:
        raise InputError("a capture needs at least one row and one recorder.")
    if len({row.index for row in rows}) < len(rows):
        raise InputError("two rows have the same index; give every row of a capture its own.")
    if attention not in get_args(AttentionPath):
        raise InputError(
            f"attention {attention!r} is unknown; allowed: {', '.join(get_args(AttentionPath))}."
        )
    plan = RowPlan.make(rows, batch_tokens)
    needs = [recorder.needs(checkpoint) for recorder in recorders]
    session = _Session(checkpoint, recorders, needs, attention)
    size = estimate_bytes(checkpoint, needs, plan)
    log.info("%d rows in %d batches, about %.1f MB at a time", len(rows), len(plan), size / 1e6)
    store = None
    if workdir is not None:
        store = Workdir.open(workdir, checkpoint, rows, recorders, plan, attention)
    with ranks.group() as group:
        begun = time.perf_counter()
        resumed = _run(session, rows, plan, store, group, progress)
        group.merge(recorders)
    return CaptureSummary(len(rows), plan.tokens, len(plan), resumed, time.perf_counter() - begun)


def _run(
    session: "_Session",
    rows: Sequence[Row],
    plan: RowPlan,
    store: Workdir | None,
    group: "ranks.Group",
    progress: Callable[[int, int], None] | None,
) -> int:
    """Run this rank's batches; returns how many were found in the work folder."""
    by_index = {row.index: row for row in rows}
    done, resumed = 0, 0
    mine = list(range(group.rank, len(plan), group.size))
    total = sum(len(plan.batches[number]) for number in mine)
    with session.open():
        for number in mine:
            if store is not None and store.load(number, session.recorders):
                resumed += 1
            else:
                fresh = [recorder.fresh() for recorder in session.recorders]
                session.run([by_index[index] for index in plan.batches[number]], fresh)
                if store is not None:
                    store.save(number, fresh)
                for recorder, new in zip(session.recorders, fresh, strict=True):
                    recorder.merge(new)
            done += len(plan.batches[number])
            if progress is not None:
                progress(done, total)
    return resumed


@dataclass
class _Pending:
    """What has arrived of one layer."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    statistics: AttentionStatistics | None = None


class _Session:
    """The hooks of one capture, and the batch that is under way."""

    def __init__(
        self,
        checkpoint: LoadedModel,
        recorders: Sequence[Recorder],
        needs: Sequence[Needs],
        attention: AttentionPath,
    ) -> None:
        self.checkpoint, self.recorders, self.attention = checkpoint, recorders, attention
        self.needs = needs
        self.sites = frozenset[Site]().union(*(need.sites for need in needs))
        for site in self.sites:
            checkpoint.require(site)
        self.demands: dict[int, Demand] = {}
        for need in needs:
            for layer, demand in need.demands.items():
                self.demands[layer] = self.demands.get(layer, Demand()) | demand
        self.keys = tuple(sorted({key for need in needs for key in need.keys}))
        self.cache: dict[Any, Any] = {}
        self.layers = {site.layer for site in self.sites} | set(self.demands)
        self.pending: dict[int | None, _Pending] = {}
        self.fired: set[Site | int] = set()
        self.taps: dict[int, Tap] = {}
        self.fresh: Sequence[Recorder] = []
        self.source: tuple[Row, ...] = ()
        self.rows = torch.zeros(0, dtype=torch.long)
        self.real = torch.zeros(0, 0, dtype=torch.bool)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Attach all hooks; they are gone when this ends, however it ends."""
        with ExitStack() as stack, torch.inference_mode():
            handed = [site for site in self.sites if site_hook(self.checkpoint, site) is None]
            watched = set(self.demands) | {s.layer for s in handed if s.layer is not None}
            self.taps = {layer: self._tap(layer, handed) for layer in watched}
            if watched or self.checkpoint.anatomy.interface:
                # Also without a tap: our mask function spares padded batches their T² mask.
                stack.enter_context(self._observe(bool(handed)))
            for site in self.sites:
                self._hook_site(site, stack)
            for layer, module in enumerate(self.checkpoint.layers):
                if layer in self.layers:
                    handle = module.register_forward_hook(self._finish(layer))
                    stack.callback(handle.remove)
            yield

    def _observe(self, handed_over: bool) -> Any:
        anatomy = self.checkpoint.anatomy
        if anatomy.interface:
            return observe(self.checkpoint.model, anatomy, self.taps, self.attention)
        if self.attention != "eager" or handed_over:
            require_interface(anatomy)
        return observe_weights(self.checkpoint, self.taps)

    def _tap(self, layer: int, handed: Sequence[Site]) -> Tap:
        names = [site.name for site in handed if site.layer == layer]

        def receive(call: AttentionCall) -> None:
            arrived = self.pending.setdefault(layer, _Pending())
            arrived.statistics = call.statistics
            for name in names:
                arrived.tensors[name] = getattr(call, HANDED_OVER[name].field).transpose(1, 2)

        return Tap(receive, self.demands.get(layer, Demand()))

    def _hook_site(self, site: Site, stack: ExitStack) -> None:
        hook = site_hook(self.checkpoint, site)
        if hook is None:
            return

        def take(tensor: Tensor) -> None:
            self.pending.setdefault(site.layer, _Pending()).tensors[site.name] = hook.read(tensor)
            if site.layer is None:
                self._emit(None)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            take(args[0] if args else kwargs["hidden_states"])

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            take(output[0] if isinstance(output, tuple) else output)

        if hook.before:
            handle = hook.module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = hook.module.register_forward_hook(after)
        stack.callback(handle.remove)

    def _finish(self, layer: int) -> Callable[..., None]:
        last = None not in self.layers_after_embed and layer == max(
            (index for index in self.layers if index is not None), default=-1
        )

        def finish(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._emit(layer)
            if last:
                raise _Stop

        return finish

    @property
    def layers_after_embed(self) -> set[int | None]:
        """Layers needed, with None only if the final norm is."""
        layers: set[int | None] = {layer for layer in self.layers if layer is not None}
        return layers | ({None} if Site("final_norm") in self.sites else set())

    def _emit(self, layer: int | None) -> None:
        arrived = self.pending.pop(layer, _Pending())
        self.fired |= {Site(name, layer) for name in arrived.tensors}
        if layer is not None and arrived.statistics is not None:
            self.fired.add(layer)
        if layer is not None:
            self._require_fired(layer)
        device = next(iter(arrived.tensors.values())).device if arrived.tensors else None
        if device is None and arrived.statistics is not None:
            device = arrived.statistics.lse.device
        batch = LayerBatch(
            checkpoint=self.checkpoint,
            layer=layer,
            rows=self.rows,
            real=self.real.to(device) if device is not None else self.real,
            tensors=arrived.tensors,
            statistics=arrived.statistics,
            keys=self.keys,
            source=self.source,
            cache=self.cache,
        )
        for recorder, need in zip(self.fresh, self.needs, strict=True):
            if layer in need.demands or any(
                site.layer == layer and site.name in arrived.tensors for site in need.sites
            ):
                recorder.update(batch)

    def run(self, rows: Sequence[Row], fresh: Sequence[Recorder]) -> None:
        """One batch through the decoder."""
        self.fresh = fresh
        self.pending.clear()
        self.fired.clear()
        inputs = padded(rows, self.checkpoint)
        self.source = tuple(rows)
        self.rows = torch.tensor([row.index for row in rows])
        self.real = inputs["attention_mask"].bool()
        longest = self.real.shape[1]
        keys = torch.tensor([min(key, longest - 1) for key in self.keys], dtype=torch.long)
        for tap in self.taps.values():
            tap.real = self.real
            tap.keys = keys.expand(len(rows), -1) if self.keys else None
        with suppress(_Stop):
            self.checkpoint.decoder(**inputs, use_cache=False, **self._eager_arguments())
        self._require_fired()

    def _require_fired(self, layer: int | None = None) -> None:
        """What was asked for of a layer, or of the whole model, must have arrived."""
        sites = [site for site in self.sites if layer in (None, site.layer)]
        silent = [site.hook_name for site in sites if site not in self.fired]
        layers = [n for n in self.demands if layer in (None, n) and n not in self.fired]
        silent += [f"the attention of layer {n}" for n in layers]
        if silent:
            raise InputError(
                f"{', '.join(sorted(silent))} of {self.checkpoint.name} never fired in the forward "
                "pass, so nothing was recorded there."
            )

    def _eager_arguments(self) -> dict[str, Any]:
        weights = bool(self.taps) and not self.checkpoint.anatomy.interface
        return {"output_attentions": True} if weights else {}


def estimate_bytes(checkpoint: LoadedModel, needs: Sequence[Needs], plan: RowPlan) -> int:
    """Bytes that one layer of the largest batch holds for the recorders, before anything runs."""
    tokens = plan.largest_batch
    anatomy = checkpoint.anatomy
    most = 0
    for index, layer in enumerate(anatomy.layers):
        sites = {site.name for need in needs for site in need.sites if site.layer == index}
        wide = sum(1 for name in sites if name not in ("k", "rot_k", "v"))
        narrow = len(sites) - wide
        width = max(anatomy.width, layer.heads * layer.head_dim)
        held = tokens * (wide * width + narrow * layer.kv_heads * layer.head_dim)
        demanded = any(index in need.demands for need in needs)
        held += tokens * layer.heads * 6 if demanded else 0
        most = max(most, held * 4)
    return most
