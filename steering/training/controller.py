"""Controllers and gates, trained on captured states."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.errors import NumericalError
from interp.model.sites import Site
from probes.estimators.linear import Lda
from steering.runtime.gates import ControllerGate, CosineGate, LogisticGate
from steering.training.calibration import Calibration, calibrate
from steering.training.examples import Captured, Read
from steering.training.vectors import pairwise_component

_NEARLY = 0.01  # share of harmful prompts that may be given up for a better place
_WIDER = 0.5  # standard deviations of a gate's scores, by which t_inst's gap has to be wider
_READ = 3  # layers that a linear gate reads at the most
_KEPT = 64  # components of a compressed controller
_PATIENCE = 5


@dataclass(frozen=True)
class Fit:
    """How a controller is trained.

    The defaults are those of the paper (Hegazy et al., arXiv 2505.20309, §4 and its repository's
    settings): one hidden layer of 1024, lr 5e-5, batches of 4, 4 epochs, gradients clipped at 1,
    500 prompts of a class, no early stopping.
    """

    hidden: int = 1024
    rate: float = 5e-5
    batch: int = 4
    epochs: int = 4
    most: int = 500
    early: bool = False


def linear_gate(captured: Captured, fpr: float) -> LogisticGate:
    """A linear read-out of harm at a token of up to three layers; its threshold is still to be set.

    The layers follow each other; the token is t_inst or the last of the prompt: where a model
    settles harm differs, and a trigger in front of a request can delay it. Places whose gate,
    calibrated, opens for clearly less of the target than another's are left out, and so are those
    that tell clearly fewer of the harmful validation prompts from 99 % of the benign ones, of the
    kind that they tell worst. Places that end in the last third of layers are taken only if there
    are no others, because only what stands behind the gate can be steered without a further pass.
    Then the one with the widest gap is taken; t_inst only if its gap is clearly wider than that of
    the prompt's last token, for that one is the template's, and t_inst is for a jailbreak to word.

    Raises:
        InputError: too few benign prompts to calibrate on, or a rate outside of (0, 1).
    """
    found = {
        (layer, position): _discriminant(captured, layer, position)
        for layer in captured.layers
        for position in dict.fromkeys((captured.t_inst, -1))
    }
    opens = {place: calibrated(gate, captured, fpr).opens for place, gate in found.items()}
    left = [place for place in found if opens[place] >= max(opens.values()) - _NEARLY]
    told = {place: _told(found[place], captured.validation) for place in left}
    best = max(share for share, _ in told.values())
    fine = [place for place in left if told[place][0] >= best - _NEARLY]
    deep = -(-2 * len(captured.layers) // 3)
    low = [place for place in fine if captured.layers.index(place[0]) < deep]
    return found[max(low or fine, key=lambda at: told[at][1] + _WIDER * (at[1] == -1))]


def calibrated(
    gate: LogisticGate | ControllerGate, captured: Captured, fpr: float, least_tpr: float = 0.0
) -> Calibration:
    """What `calibrate` says of a gate on captured prompts; the gate stays as it is."""
    held = scores(gate, captured.validation)
    return calibrate(
        scores(gate, captured.calibration),
        held[captured.validation.kinds == "benign"],
        harmful_scores(held, captured.validation),
        fpr,
        least_tpr,
    )


def _discriminant(captured: Captured, last: int, position: int) -> LogisticGate:
    """Shrunk LDA of the states of the layers up to `last`, side by side."""
    read, end = captured.train, captured.layers.index(last) + 1
    layers = captured.layers[max(0, end - _READ) : end]
    side_by_side = np.concatenate([read.at(layer, position) for layer in layers], 1)
    probe = Lda().fit(side_by_side, read.harmful)
    coefficients = torch.tensor(probe.coef_, dtype=torch.float32).reshape(len(layers), -1)
    sites = [Site("resid_post", layer) for layer in layers]
    return LogisticGate(sites, coefficients, probe.intercept_, 0.0, position)


def scores(gate: LogisticGate | ControllerGate, read: Read) -> Float[np.ndarray, " rows"]:
    """What a gate says of captured prompts."""
    with torch.no_grad():
        found: np.ndarray = gate(states_of(gate, read)).score.double().numpy()
    return found


def states_of(
    gate: LogisticGate | ControllerGate | CosineGate, read: Read
) -> Float[Tensor, "rows reads width"]:
    """What a gate reads of captured prompts."""
    layers = [site.layer for site in gate.reads]
    values = [read.at(layer, gate.position) for layer in layers if layer is not None]
    return torch.tensor(np.stack(values, 1))


def harmful_scores(
    values: Float[np.ndarray, " rows"], read: Read
) -> dict[str, Float[np.ndarray, "..."]]:
    """Scores of each kind of harmful prompt that there is."""
    kinds = [kind for kind in ("harmful", "jailbroken") if (read.kinds == kind).any()]
    return {kind: values[read.kinds == kind] for kind in kinds}


def _told(gate: LogisticGate, read: Read) -> tuple[float, float]:
    """Share of harmful prompts above 99 % of the benign ones, and the gap; of the worst kind."""
    values = scores(gate, read)
    top = np.quantile(values[read.kinds == "benign"], 0.99)
    kinds = list(harmful_scores(values, read).values())
    gaps = [np.quantile(some, 0.05) - top for some in kinds]
    return min(float((some > top).mean()) for some in kinds), float(
        min(gaps) / (values.std() + 1e-9)
    )


def trained_controller(
    captured: Captured, sites: int, position: int, fit: Fit, seed: int, *, compress: bool = False
) -> ControllerGate:
    """The MLP controller of WAS on states of the last third of layers: s → 1 on harm, s → 0 else.

    Loss as published: ½ mean (s−1)² on harmful and ½ mean s² on benign prompts, in balanced
    batches. The layer weights get no target of their own.

    Args:
        captured: states.
        sites: how many layers are weighed.
        position: −1 as published, or t_inst.
        fit: sizes and rates.
        seed: of weights and batches.
        compress: put the input on its first principal components.

    Raises:
        NumericalError: the loss becomes NaN.
    """
    count = len(captured.layers)
    reads = [Site("resid_post", layer) for layer in captured.layers if layer >= 2 * count / 3]
    reads = reads or [Site("resid_post", captured.layers[-1])]
    width = captured.checkpoint.anatomy.width
    options: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if compress:
            bare = ControllerGate(reads, width, sites, 1, position)
            options = _components(states_of(bare, captured.train).flatten(1))
        gate = ControllerGate(reads, width, sites, fit.hidden, position, **options)
    _descend(gate, captured, fit, seed)
    return gate.eval()


def _components(x: Float[Tensor, "rows inputs"]) -> dict[str, Tensor]:
    centre = x.mean(0)
    _, _, vectors = torch.linalg.svd(x - centre, full_matrices=False)
    return {"centre": centre, "components": vectors[:_KEPT].contiguous()}


def _descend(gate: ControllerGate, captured: Captured, fit: Fit, seed: int) -> None:
    x, harmful = states_of(gate, captured.train), torch.tensor(captured.train.harmful)
    held = states_of(gate, captured.validation), torch.tensor(captured.validation.harmful)
    generator = torch.Generator().manual_seed(seed)
    sides = [torch.nonzero(mask)[:, 0] for mask in (harmful, ~harmful)]
    sides = [side[torch.randperm(len(side), generator=generator)][: fit.most] for side in sides]
    steps = max(1, min(map(len, sides)) // (fit.batch // 2))
    optimiser = torch.optim.AdamW(gate.parameters(), fit.rate)
    best, kept, waited = float("inf"), {}, 0
    for epoch in range(fit.epochs):
        orders = [side[torch.randperm(len(side), generator=generator)] for side in sides]
        for step in range(steps):
            here = slice(step * fit.batch // 2, (step + 1) * fit.batch // 2)
            rows = torch.cat([order[here] for order in orders])
            loss = _loss(gate, x[rows], harmful[rows])
            if not bool(torch.isfinite(loss)):
                raise NumericalError(
                    f"the controller's loss became NaN or infinite in epoch {epoch + 1}; load the "
                    "model in float32, or train at a lower rate."
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(gate.parameters(), 1.0)
            optimiser.step()
        if fit.early:
            with torch.no_grad():
                now = float(_loss(gate, *held))
            waited = 0 if now < best else waited + 1
            if now < best:
                best, kept = now, {k: v.clone() for k, v in gate.state_dict().items()}
            if waited >= _PATIENCE:
                break
    if kept:
        gate.load_state_dict(kept)


def _loss(
    gate: ControllerGate, x: Float[Tensor, "rows reads width"], harmful: Bool[Tensor, " rows"]
) -> Tensor:
    error = (gate(x).score - harmful.float()).square()
    loss: Tensor = (error[harmful].mean() + error[~harmful].mean()) / 2
    return loss


def cosine_gate(captured: Captured) -> CosineGate:
    """CAST's condition: the first principal component of harmful and benign pairs, best F1.

    Layers, tokens (t_inst and the last one), sides and thresholds are searched on the validation
    prompts, as in the published search; the threshold is not calibrated on a false-positive rate.
    """
    best: tuple[float, CosineGate | None] = (-1.0, None)
    read = captured.train
    rng = np.random.default_rng(0)
    for layer in captured.layers:
        for position in dict.fromkeys((-1, captured.t_inst)):
            states = read.at(layer, position)
            high, low = (
                states[mask][rng.permutation(int(mask.sum()))]
                for mask in (read.harmful, ~read.harmful)
            )
            vector = torch.tensor(pairwise_component(high, low)[None]).float()
            bare = CosineGate([Site("resid_post", layer)], vector, 0.0, position)
            like = bare.similarity(states_of(bare, captured.validation))[:, 0].numpy()
            value, threshold, above = _best_f1(like, captured.validation.harmful)
            if value > best[0]:
                gate = CosineGate(bare.reads, vector, threshold, position, above)
                best = (value, gate)
    assert best[1] is not None  # there are layers, and F1 is never below 0
    return best[1]


def _best_f1(
    values: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]
) -> tuple[float, float, bool]:
    edges = np.unique(values)
    best = (-1.0, 0.0, True)
    for threshold in (edges[:-1] + edges[1:]) / 2 if len(edges) > 1 else edges:
        for above in (True, False):
            opened = values > threshold if above else values < threshold
            hits = float((opened & positive).sum())
            f1 = 2 * hits / (float(opened.sum()) + float(positive.sum()))
            best = max(best, (f1, float(threshold), above))
    return best
