"""`FittedProbe`: a probe that was fitted to a collection and tested, as an artefact."""

from collections.abc import Collection as Names
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.errors import InputError
from interp.fields import NUMBER, POSITIVE, require_fields
from interp.model import artifacts
from interp.model.origin import require_origin
from interp.model.sites import layer_ranges
from probes.collections.collection import Collection
from probes.estimators.aggregation import Aggregator, aggregator
from probes.estimators.token_probe import Monitor
from probes.statistics.metrics import auroc, tpr_at_fpr

_KIND = "probe"
_FPR = 0.01
_SETTINGS = {
    **{name: NUMBER.optional() for name in ("alpha", "temperature")},
    **{name: POSITIVE.optional() for name in ("window", "heads")},
}
_YES, _NO = {"1", "true", "yes"}, {"0", "false", "no"}


@dataclass(frozen=True)
class FittedProbe:
    """Linear scores of tokens at one or more layers, added, and their aggregation.

    Attributes:
        coef: in raw coordinates.
        intercept: of each channel.
        layers: of the first axis of `coef`.
        aggregation: from tokens to a prompt.
        trained: keys of the prompts that it was fitted on (`Collection.prompt_keys`).
        meta: origin, site, segment, label, positive, threshold, and everything about fit and test,
            JSON-ready. The threshold lies half way between the mean scores of the classes that the
            probe was fitted on; one for a wanted rate takes benign traffic of its own.
    """

    coef: Float[Tensor, "layers width channels"]
    intercept: Float[Tensor, " channels"]
    layers: tuple[int | None, ...]
    aggregation: Aggregator
    trained: Int[np.ndarray, " n"]
    meta: Mapping[str, Any]

    def __repr__(self) -> str:
        said = {key: self.meta.get(key, "unknown") for key in ("estimator", "site", "segment")}
        layers = layer_ranges(self.layers)
        return (
            f"FittedProbe({said['estimator']}, {said['site']}"
            f"{f' of layers {layers}' if layers else ''} at {said['segment']}, "
            f"aggregated by {self.aggregation.name}, width {self.coef.shape[1]}, "
            f"{len(self.trained)} training prompts)"
        )

    def save(self, path: Path) -> Path:
        """Write the artefact.

        Raises:
            InputError: it cannot be written.
        """
        tensors = {
            "coef": self.coef,
            "intercept": self.intercept,
            "trained": torch.as_tensor(self.trained),
        }
        own = {"layers": list(self.layers), "aggregation": self.aggregation.settings()}
        return artifacts.save(path, artifacts.Artifact(_KIND, tensors, {**self.meta, **own}))

    @classmethod
    def load(cls, path: Path) -> "FittedProbe":
        """Read the artefact.

        Raises:
            InputError: the file is missing, damaged, incomplete or no probe.
        """
        found = artifacts.load(path, _KIND)
        coef = found.tensors["coef"]
        try:
            require_fields(found.meta["aggregation"], _SETTINGS, "aggregation.")
            aggregation = aggregator(**found.meta["aggregation"])
            if coef.shape[2] != (aggregation.channels or 1):
                raise ValueError(
                    f"coef has {coef.shape[2]} scores for a token, and {aggregation.name} takes "
                    f"{aggregation.channels or 1}"
                )
        except (InputError, ValueError) as error:
            said = str(error).removesuffix(".")
            raise InputError(f"{path} is no complete probe: {said}; make it anew.") from error
        return cls(
            coef,
            found.tensors["intercept"],
            tuple(found.meta["layers"]),
            aggregation,
            found.tensors["trained"].numpy(),
            found.meta,
        )

    def scores(
        self, collection: Collection, *, allow: Names[str] = ()
    ) -> Float[np.ndarray, " prompts"]:
        """Score of the positive class for each prompt; log-odds where the estimator is logistic.

        Args:
            collection: of the same model, site and segment.
            allow: what of the model may differ (`interp.model.origin.require_origin`).

        Raises:
            InputError: it is of another model, site or segment, or lacks a layer.
        """
        self._require(collection, allow)
        total, rows = torch.zeros(()), torch.zeros(0)
        for layer, coef in zip(self.layers, self.coef, strict=True):
            values, rows = collection.tokens(layer)
            if values.shape[1] != len(coef):
                raise InputError(
                    f"layer {layer} of {collection.folder} is {values.shape[1]} wide, and the "
                    f"probe {len(coef)}."
                )
            total = total + values.to(coef) @ coef
        found = total + self.intercept
        lengths = torch.bincount(rows, minlength=len(collection))
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        padded = found.new_zeros(*mask.shape, found.shape[1])
        padded = padded.masked_scatter(mask[..., None], found)
        tokens = padded if self.aggregation.channels else padded[..., 0]
        return self.aggregation.aggregate(tokens, mask).double().numpy()

    def evaluate(
        self,
        collection: Collection,
        label: str | None = None,
        positive: str | None = None,
        *,
        allow: Names[str] = (),
    ) -> dict[str, Any]:
        """Metrics over all prompts and by source; prompts it was fitted on are left out.

        Args:
            collection: of the same model, site and segment.
            label: column with the classes; that of the fit if None.
            positive: value that counts as positive; that of the fit if None.
            allow: what of the model may differ (`interp.model.origin.require_origin`).

        Returns:
            `overall` and `by_source` (name to metrics, as of `metrics`), `left_out` (prompts that
            the probe was fitted on), and `prompts` (those that counted).

        Raises:
            InputError: another model, no such column or value, or no prompt is left.
        """
        scores = self.scores(collection, allow=allow)
        wanted = str(self.meta["positive"]) if positive is None else positive
        truth = classes(collection.column(label or str(self.meta["label"])), wanted)[0]
        fresh = ~np.isin(collection.prompt_keys(), self.trained)
        if not fresh.any():
            raise InputError(
                f"the probe was fitted on every prompt of {collection.folder}; give a collection "
                "with prompts that it has not seen."
            )
        sources = collection.column("source")
        return {
            "overall": metrics(scores[fresh], truth[fresh], self.meta["threshold"]),
            "by_source": {
                str(name): metrics(scores[here], truth[here], self.meta["threshold"])
                for name in dict.fromkeys(sources[fresh])
                for here in [fresh & (sources == name)]
            },
            "left_out": int((~fresh).sum()),
            "prompts": int(fresh.sum()),
        }

    def stream(self, batch: int = 1) -> Monitor:
        """A monitor that is fed the states of one token of every row at a time.

        Raises:
            InputError: the probe reads several layers.
        """
        if len(self.layers) > 1:
            raise InputError(
                f"this probe reads {len(self.layers)} layers; a stream takes the states of one."
            )
        return Monitor(self.aggregation, self.coef[0], self.intercept, batch)

    def _require(self, collection: Collection, allow: Names[str]) -> None:
        require_origin(_KIND, self.meta, collection.meta["origin"], allow=allow)
        for key in ("site", "segment"):
            if self.meta[key] != collection.meta[key]:
                raise InputError(
                    f"this probe was fitted with {key} {self.meta[key]}, and {collection.folder} "
                    f"holds {collection.meta[key]}; collect the same."
                )


def classes(
    values: Shaped[np.ndarray, " n"], positive: str | None
) -> tuple[Bool[np.ndarray, " n"], str]:
    """Which rows are positive, and the value that says so.

    Args:
        values: strings.
        positive: the value; None where the values say it themselves, such as 0 and 1.

    Raises:
        InputError: there is no such value, or the values do not say it.
    """
    known = [str(value) for value in dict.fromkeys(values.tolist())]
    if positive is None:
        yes = [value for value in known if value.lower() in _YES]
        if len(yes) != 1 or not all(value.lower() in _YES | _NO for value in known):
            raise InputError(
                f"the labels are {', '.join(known[:8])}; say which one counts as positive with "
                "--positive (in Python positive=…)."
            )
        positive = yes[0]
    if positive not in known:
        raise InputError(f"no row has the label {positive!r}; there are {', '.join(known[:8])}.")
    return np.asarray(values == positive), positive


def metrics(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    threshold: float,
    clusters: Shaped[np.ndarray, " n"] | None = None,
) -> dict[str, Any]:
    """What can be said of held-out scores, JSON-ready.

    Args:
        scores: the higher, the more positive.
        positive: the class of each.
        threshold: of the probe.
        clusters: a name for each, equal for cases that are not independent.

    Returns:
        `positives` and `negatives`; `tpr` and `fpr` at the threshold, None without cases; `auroc`
        with `interval` and `method`, None where a class is empty; `tpr_at_fpr` at 1 % with
        `interval` and `threshold`, or with the `reason` why there is none.
    """
    found: dict[str, Any] = {
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "tpr": float((scores[positive] > threshold).mean()) if positive.any() else None,
        "fpr": float((scores[~positive] > threshold).mean()) if not positive.all() else None,
        "auroc": None,
        "interval": None,
        "method": None,
    }
    if not positive.any() or positive.all():
        return found | {"tpr_at_fpr": {"fpr": _FPR, "reason": "a class is empty here"}}
    area = auroc(scores, positive, clusters=clusters)
    found |= {"auroc": area.value, "interval": list(area.interval), "method": area.method}
    try:
        point = tpr_at_fpr(scores, positive, _FPR)
    except InputError as error:
        return found | {"tpr_at_fpr": {"fpr": _FPR, "reason": str(error)}}
    interval = None if point.tpr_interval is None else list(point.tpr_interval)
    found["tpr_at_fpr"] = {
        "fpr": _FPR,
        "tpr": point.tpr,
        "interval": interval,
        "threshold": point.threshold,
    }
    return found
