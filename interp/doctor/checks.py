"""The checks that `doctor` carries out, one function for each invariant."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from interp.attention.kernels import AttentionStatistics, Demand
from interp.attention.statistics import AttentionCall, AttentionPath, Tap, observe
from interp.data.padding import Side
from interp.doctor.model_under_test import ModelUnderTest, ordinary_ids, reading
from interp.errors import InputError
from interp.interventions.edits_by_site import add_vector, move_to_sink, zero_heads
from interp.interventions.replay import start_at
from interp.model.modules import attention_module
from interp.model.sites import Site

_STEPS = 8


class NotApplicable(Exception):
    """A check says nothing about this checkpoint; the message is the reason."""


@dataclass(frozen=True)
class Outcome:
    """What a check measured; numbers are None where it has none."""

    passed: bool
    difference: float | None
    tolerance: float | None
    detail: str


def checks_in_order() -> list[tuple[str, Callable[[ModelUnderTest], Outcome]]]:
    """The checks by name, in the order of the table."""
    return [
        ("parity", _parity),
        ("statistics", _statistics),
        ("batch, left padding", lambda tested: _batch(tested, "left")),
        ("batch, right padding", lambda tested: _batch(tested, "right")),
        ("cache", _cache),
        ("identity", _identity),
        ("causality", _causality),
        ("ranks", _ranks),
        ("restoration", _restoration),
        ("nothing silent", _nothing_silent),
    ]


def _relative(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest |reference|; infinite if anything is not finite."""
    if not bool(torch.isfinite(value).all() and torch.isfinite(reference).all()):
        return float("inf")
    size = float(reference.abs().max())
    return float((value - reference).abs().max()) / (size or 1.0)


def _within(tested: ModelUnderTest, difference: float, detail: str) -> Outcome:
    return Outcome(difference <= tested.tolerance, difference, tested.tolerance, detail)


def _logits_within(tested: ModelUnderTest, difference: float, detail: str) -> Outcome:
    """Judge logits; on failure say how far rounding alone moves them, for the verdict stands."""
    if difference > tested.tolerance:
        moved = _relative(tested.logits_with_rounding_noise(), tested.logits(tested.ids))
        detail += f"; one unit of rounding noise in the embedding moves this model's by {moved:.1e}"
    return _within(tested, difference, detail)


def _parity(tested: ModelUnderTest) -> Outcome:
    ids, real = tested.padded("left")
    worst = 0.0
    for tokens, mask in ((tested.ids, None), (ids, real)):
        plain = tested.logits(tokens, mask)
        with _observed(tested, "auto", mask):
            seen = tested.logits(tokens, mask)
        keep = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        worst = max(worst, _relative(seen[keep], plain[keep]))
    return _logits_within(tested, worst, "logits with every statistic on, against the plain model")


@dataclass(frozen=True)
class _Seen:
    """One layer's statistics, and the largest ‖q‖·‖k‖·scale, which no |score| exceeds."""

    statistics: AttentionStatistics
    score_bound: float


@contextmanager
def _observed(
    tested: ModelUnderTest, attention: AttentionPath, real: Tensor | None
) -> Iterator[dict[int, _Seen]]:
    """Ask every softmax layer for every statistic."""
    checkpoint = tested.checkpoint
    found: dict[int, _Seen] = {}
    if not checkpoint.anatomy.softmax_layers:
        raise NotApplicable("no layer has softmax attention")
    real = torch.ones_like(tested.ids, dtype=torch.bool) if real is None else real
    keys = real.long().argmax(-1, keepdim=True)

    def receive(given: AttentionCall) -> None:
        if given.statistics is not None:
            module = attention_module(checkpoint.layers[given.layer])
            scale = getattr(module, "scaling", given.query.shape[-1] ** -0.5)
            norms = [x.float().norm(dim=-1).max() for x in (given.query, given.key)]
            found[given.layer] = _Seen(given.statistics, float(norms[0] * norms[1]) * scale)

    taps = {}
    for index in checkpoint.anatomy.softmax_layers:
        wanted = {field.name: True for field in fields(Demand)}
        wanted["learned_sink"] = checkpoint.anatomy.layers[index].learned_sink
        taps[index] = Tap(receive, Demand(**wanted), real, keys)
    with observe(checkpoint.model, checkpoint.anatomy, taps, attention):
        yield found


def _statistics(tested: ModelUnderTest) -> Outcome:
    """Streamed statistics against eager weights, each layer on the same input.

    An error counts against the value, or 1; 1e-5 is allowed, or what float32 can resolve of the
    layer's scores, whichever is more.
    """
    if not tested.exact:
        raise NotApplicable(
            "eager attention rounds its scores to half precision, so it is no reference for the "
            "statistics; they are judged in float32"
        )
    ids, real = tested.padded("left")
    layers = tested.checkpoint.anatomy.softmax_layers
    inputs = [Site("resid_pre", layer) for layer in layers]
    with reading(tested.checkpoint, inputs) as hidden:
        tested.logits(ids, real)
    worst, allowed, where = 0.0, tested.tolerance, "all equal"
    for layer, site in zip(layers, inputs, strict=True):
        fast = _statistics_of(tested, layer, hidden[site], "auto")
        slow = _statistics_of(tested, layer, hidden[site], "eager")
        error, name = _largest_error(fast.statistics, slow.statistics)
        # A score is a sum of products that float32 rounds: large ones are not known to 1e-5.
        resolution = torch.finfo(torch.float32).eps * fast.score_bound
        tolerance = max(tested.tolerance, resolution)
        if error / tolerance > worst / allowed:
            worst, allowed = error, tolerance
            where = f"largest at {name} of layer {layer} (‖q‖‖k‖ up to {fast.score_bound:.0f})"
    detail = f"against the T×T weights of eager attention; {where}"
    return Outcome(worst <= allowed, worst, allowed, detail)


def _largest_error(fast: AttentionStatistics, slow: AttentionStatistics) -> tuple[float, str]:
    errors = {}
    for name in (field.name for field in fields(Demand)):
        value, reference = getattr(fast, name), getattr(slow, name)
        if reference is not None:
            error = (value - reference).abs() / reference.abs().clamp_min(1.0)
            errors[name] = float(torch.nan_to_num(error, nan=float("inf")).max())
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst


def _statistics_of(
    tested: ModelUnderTest, layer: int, hidden: Tensor, attention: AttentionPath
) -> _Seen:
    ids, real = tested.padded("left")
    with (
        start_at(tested.checkpoint, layer, hidden),
        _observed(tested, attention, real) as found,
    ):
        tested.logits(ids, real)
    return found[layer]


def _batch(tested: ModelUnderTest, side: Side) -> Outcome:
    if tested.length < 2:
        raise NotApplicable("the context has room for one token only, so nothing can be padded")
    ids, real = tested.padded(side)
    together = tested.logits(ids, real)
    lengths = real.sum(-1).tolist()
    worst = max(
        _relative(together[row][real[row]], tested.logits(tested.ids[row : row + 1, :kept])[0])
        for row, kept in enumerate(lengths)
    )
    detail = f"rows of {', '.join(map(str, lengths))} tokens, and each alone"
    return _logits_within(tested, worst, detail)


def _cache(tested: ModelUnderTest) -> Outcome:
    room = tested.checkpoint.anatomy.context or tested.length + _STEPS
    prompt = min(tested.length, room - _STEPS)
    if prompt < 1:
        raise NotApplicable(f"a context of {room} tokens is too short to generate {_STEPS}")
    ids, real = tested.padded("left", prompt)
    vector, site = tested.push()
    # Steering starts at the last prompt token of each row, so the edit has to know where it is.
    positions = real.sum(-1, keepdim=True) - 1 + torch.arange(_STEPS, device=real.device)
    with add_vector(tested.checkpoint, vector, site, positions=positions):
        slow, scores = tested.greedy(ids, real, _STEPS, cached=False)
    with add_vector(tested.checkpoint, vector, site, positions=positions):
        fast, cached = tested.greedy(ids, real, _STEPS, cached=True)
    top = scores.topk(2, -1).values
    clear = (top[..., 0] - top[..., 1]) > tested.tolerance * scores.abs().max()
    # In half precision a near tie decides by rounding, and what follows it is another text.
    counted = torch.ones_like(clear) if tested.exact else clear.long().cumprod(1).bool()
    if not bool(counted.any()):
        raise NotApplicable("every first step is a near tie in this precision; use float32")
    different = int((slow != fast)[counted].sum())
    apart = _relative(cached[:, 0], scores[:, 0])
    return Outcome(
        different == 0,
        float(different),
        0.0,
        f"{different} of {int(counted.sum())} tokens under a steering vector differ; the logits of "
        f"the first step by {apart:.1e}",
    )


def _identity(tested: ModelUnderTest) -> Outcome:
    vector, _ = tested.push()
    plain = tested.logits(tested.ids)
    zeros = [0.0] * len(tested.ids)
    with ExitStack() as stack:
        for layer in range(tested.checkpoint.anatomy.n_layers):
            site = Site("resid_post", layer)
            stack.enter_context(add_vector(tested.checkpoint, vector, site, zeros))
        edited = tested.logits(tested.ids)
    difference = float((edited - plain).abs().max())
    same = torch.equal(edited, plain)
    return Outcome(same, difference, 0.0, "a vector of strength 0 at every layer: the same bits")


def _causality(tested: ModelUnderTest) -> Outcome:
    if tested.length < 2:
        raise NotApplicable("the context has room for one token only")
    changed = tested.ids.clone()
    other = ordinary_ids(tested.checkpoint).to(changed.device)
    # The next ordinary id, whatever the last one was.
    index = (other[None] == changed[:, -1:]).long().argmax(-1)
    changed[:, -1] = other[(index + 1) % len(other)]
    sites = [Site("resid_post", i) for i in range(tested.checkpoint.anatomy.n_layers)]
    with reading(tested.checkpoint, sites) as before:
        plain = tested.logits(tested.ids)
    with reading(tested.checkpoint, sites) as after:
        moved = tested.logits(changed)
    differences = {"logits": _relative(moved[:, :-1], plain[:, :-1])}
    for site in sites:
        pair = after[site][:, :-1].float(), before[site][:, :-1].float()
        differences[site.hook_name] = _relative(*pair)
    where = max(differences, key=lambda name: differences[name])
    worst = differences[where]
    detail = f"largest at {where}" if worst else "no bit of any earlier token moved"
    return _within(tested, worst, f"another last token; {detail}")


def _ranks(tested: ModelUnderTest) -> Outcome:
    raise NotApplicable("one process here; the test suite checks that merged results agree")


def _restoration(tested: ModelUnderTest) -> Outcome:
    checkpoint = tested.checkpoint
    before = _state_of(checkpoint.model)
    _use_every_context(tested, None)
    with suppress(_Interruption):
        _use_every_context(tested, _Interruption())
    after = _state_of(checkpoint.model)
    changed = [name for name in before if before[name] != after.get(name)]
    changed += [name for name in after if name not in before]
    detail = f"changed: {', '.join(changed[:5])}" if changed else "hooks, config, modules, weights"
    return Outcome(not changed, None, None, detail)


class _Interruption(Exception):
    """What leaves the contexts in the middle."""


def _use_every_context(tested: ModelUnderTest, error: Exception | None) -> None:
    """One pass under all kinds of contexts at once; `error`, if any, is raised inside of them."""
    checkpoint, anatomy = tested.checkpoint, tested.checkpoint.anatomy
    vector, site = tested.push()
    start = Site("resid_pre", min(1, anatomy.n_layers - 1))
    with reading(checkpoint, [start]) as found:
        tested.logits(tested.ids)
    with ExitStack() as stack:
        stack.enter_context(start_at(checkpoint, start.layer or 0, found[start]))
        stack.enter_context(add_vector(checkpoint, vector, site))
        for layer in anatomy.softmax_layers[-1:]:
            if layer >= (start.layer or 0):
                stack.enter_context(zero_heads(checkpoint, layer, [0]))
                if anatomy.interface and anatomy.layers[layer].attention == "full":
                    stack.enter_context(move_to_sink(checkpoint, layer, [0]))
        if anatomy.interface and anatomy.softmax_layers:
            stack.enter_context(_observed(tested, "auto", None))
        tested.logits(tested.ids)
        if error is not None:
            raise error


def _state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that a context could leave behind, by module name."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        hooks = {
            key: tuple(value)
            for key, value in vars(module).items()
            # transformers leaves a flag there once it was asked for hidden states.
            if "_hooks" in key and isinstance(value, dict) and value
        }
        config = getattr(module, "config", None)
        implementation = getattr(config, "_attn_implementation_internal", None)
        # Buffers are left out: rotary embeddings of dynamic type rescale theirs by design.
        weights = [
            (p.data_ptr(), p._version if not p.is_inference() else 0)
            for p in module.parameters(False)
        ]
        attributes = sorted(vars(module))
        state[name or "the model"] = (
            id(module),
            module.training,
            hooks,
            implementation,
            repr(config),
            weights,
            attributes,
        )
    return state


def _nothing_silent(tested: ModelUnderTest) -> Outcome:
    checkpoint = tested.checkpoint
    anatomy = checkpoint.anatomy
    failures = []
    if not _refused(lambda: Site("nonsense", 0)):
        failures.append("an unknown site was accepted")
    if not _refused(lambda: checkpoint.require(Site("resid_post", anatomy.n_layers))):
        failures.append("a layer beyond the last was accepted")
    sites = [Site(name, i) for i, layer in enumerate(anatomy.layers) for name in layer.sites]
    with reading(checkpoint, sites) as found:
        tested.logits(tested.ids)
    failures += [f"{site.hook_name} never fired" for site in sites if site not in found]
    failures += [
        f"{site.hook_name} is not finite"
        for site, value in found.items()
        if not bool(torch.isfinite(value).all())
    ]
    failures += [
        f"{site.hook_name} has shape {list(value.shape)}"
        for site, value in found.items()
        if value.shape[:2] != tested.ids.shape
    ]
    if anatomy.n_layers > 1 and "mlp_out" in anatomy.layers[0].sites:
        hidden = found[Site("resid_pre", 1)]
        if not _refused(lambda: _edit_a_skipped_layer(tested, hidden)):
            failures.append("an edit of a layer that never ran was accepted")
    detail = (
        "; ".join(failures[:5]) or f"{len(sites)} sites fire and are finite; unknown ones raise"
    )
    return Outcome(not failures, None, None, detail)


def _edit_a_skipped_layer(tested: ModelUnderTest, hidden: Tensor) -> None:
    vector = torch.ones(tested.checkpoint.anatomy.width)
    with (
        start_at(tested.checkpoint, 1, hidden),
        add_vector(tested.checkpoint, vector, Site("mlp_out", 0)),
    ):
        tested.logits(tested.ids)


def _refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except InputError:
        return True
    return False
