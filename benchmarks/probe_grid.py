"""ProbeGrid against a loop over scikit-learn's LogisticRegression, on the same threads.

    python benchmarks/probe_grid.py --out runs/probe_grid.json --doc docs/benchmarks.md

Both sides standardise and use the same folds and penalties. They alternate from cell to cell, so
that a slow moment hits both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from shared import rewrite, write
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from probes import ProbeGrid

CS = tuple(np.logspace(-4, 2, 10))
FOLDS = 5
AIMS = {"one penalty": 4.0, "cross-validated": 30.0}


def cell(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations with the spectrum of a residual stream: variance falls as a power law.

    Two classes of n rows each lie along one direction in noise, so that AUROC is neither chance nor
    one. The first half is for fitting, the second for testing.
    """
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    spread = np.arange(1, d + 1) ** -0.5
    y = rng.integers(0, 2, 2 * n)
    x = rng.normal(size=(2 * n, d)) * spread
    x[:, 20] += 1.2 * spread[20] * (2 * y - 1)
    return (x @ basis.T + 2 * rng.normal(size=d)).astype(np.float32), y


def loop(x: np.ndarray, y: np.ndarray, penalties: tuple[float, ...]) -> np.ndarray:
    """What a user writes with scikit-learn; returns the weights in raw coordinates."""
    best = penalties[0]
    if len(penalties) > 1:
        scores = np.zeros(len(penalties))
        for train, held in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y):
            scaler = StandardScaler().fit(x[train])
            fitted, unseen = scaler.transform(x[train]), scaler.transform(x[held])
            for i, c in enumerate(penalties):
                probe = LogisticRegression(C=c, max_iter=1000).fit(fitted, y[train])
                scores[i] += roc_auc_score(y[held], probe.decision_function(unseen))
        best = penalties[int(scores.argmax())]
    scaler = StandardScaler().fit(x)
    probe = LogisticRegression(C=best, max_iter=1000).fit(scaler.transform(x), y)
    return np.asarray(probe.coef_[0] / scaler.scale_)


def compare(kind: str, cells: int, n: int, d: int) -> dict[str, Any]:
    """Alternate the two sides over some cells."""
    penalties = CS if kind == "cross-validated" else (0.1,)
    ours = ProbeGrid(None if len(penalties) > 1 else penalties[0], Cs=penalties, cv=FOLDS)
    ratios, gaps, seconds = [], [], {"scikit-learn": [], "ProbeGrid": []}
    for number in range(cells + 1):
        x, y = cell(n, d, number)
        begun = time.perf_counter()
        ours.fit(x[:n, None], y[:n])
        middle = time.perf_counter()
        coef = loop(x[:n], y[:n], penalties)
        ended = time.perf_counter()
        if number == 0:  # the first cell warms up
            continue
        seconds["ProbeGrid"].append(middle - begun)
        seconds["scikit-learn"].append(ended - middle)
        ratios.append((ended - middle) / (middle - begun))
        area = roc_auc_score(y[n:], x[n:] @ coef)
        gaps.append(abs(area - float(ours.auroc(x[n:, None], y[n:])[0])))
        print(f"{kind}: cell {number} of {cells}, {ratios[-1]:.1f} ×, AUROC {area:.3f}", flush=True)
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "largest_auroc_difference": max(gaps),
        "seconds": seconds,
        "aim": AIMS[kind],
    }


def document(result: dict[str, Any]) -> str:
    """The section of the documentation."""
    lines = [
        f"One cell: {result['rows']} rows of {result['width']} features, float32; {FOLDS} folds × "
        f"{len(CS)} penalties; {result['threads']} thread(s); torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}. Both sides standardise; scikit-learn at its own "
        f"tolerance. Median over {result['cells']} cells, the sides alternating. The cells of a "
        "grid are independent, so the ratio is that of a grid of any size.",
        "",
        "| work | times faster than a loop over scikit-learn | aim | largest difference of AUROC |",
        "|---|---|---|---|",
    ]
    for kind, one in result["work"].items():
        lines.append(
            f"| {kind} | {one['ratio']:.1f} × ({min(one['ratios']):.1f} to "
            f"{max(one['ratios']):.1f}) | ≥ {one['aim']:.0f} × | "
            f"{one['largest_auroc_difference']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Time both sides and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--doc", type=Path, help="rewrite this document's section")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with threadpool_limits(arguments.threads):
        work = {
            kind: compare(kind, arguments.cells, arguments.rows, arguments.width) for kind in AIMS
        }
    result = {
        "rows": arguments.rows,
        "width": arguments.width,
        "cells": arguments.cells,
        "threads": arguments.threads,
        "work": work,
    }
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(document(result))
    if arguments.doc:
        rewrite(arguments.doc, "Probe grid", document(result))


if __name__ == "__main__":
    main()
