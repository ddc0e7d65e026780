"""LDA in the span of the rows against scikit-learn's, which solves a system as large as the width.

    python benchmarks/wide_lda.py --out runs/wide_lda.json --doc docs/benchmarks.md

Both shrink after Ledoit and Wolf and give the same coefficients. They alternate, so that a slow
moment hits both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from shared import rewrite, write
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_limits

from probes.estimators import linear


def compare(rows: int, width: int, repeats: int) -> dict[str, Any]:
    """Alternate the two sides; the first time of both warms up."""
    ours, theirs, apart = [], [], 0.0
    for number in range(repeats + 1):
        rng = np.random.default_rng(number)
        y = rng.integers(0, 2, rows)
        x = rng.normal(size=(rows, 8)) @ rng.normal(size=(8, width)) + rng.normal(
            size=(rows, width)
        )
        x += 0.1 * y[:, None]
        begun = time.perf_counter()
        found = linear.estimator("lda").fit(x, y)
        middle = time.perf_counter()
        wanted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
        ended = time.perf_counter()
        scale = float(np.abs(wanted.coef_).max())
        apart = max(apart, float(np.abs(wanted.coef_[0] - found.coef_).max()) / scale)
        if number:
            ours.append(middle - begun)
            theirs.append(ended - middle)
    ratios = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
    return {
        "width": width,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "largest_difference": apart,
        "seconds": {"mechguard": ours, "scikit-learn": theirs},
    }


def document(result: dict[str, Any]) -> str:
    """The section of the documentation."""
    lines = [
        f"Ledoit–Wolf LDA of {result['rows']} rows on {result['threads']} thread(s); scikit-learn "
        f"{sklearn.__version__}. Median over {result['repeats']} data sets, the sides alternating; "
        "the difference is that of coefficients, as a share of the largest.",
        "",
        "| width | times faster than scikit-learn | largest difference |",
        "|---|---|---|",
    ]
    lines += [
        f"| {one['width']} | {one['ratio']:.0f} × ({min(one['ratios']):.0f} to "
        f"{max(one['ratios']):.0f}) | {one['largest_difference']:.0e} |"
        for one in result["work"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Time both sides and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--doc", type=Path, help="rewrite this document's section")
    given = parser.parse_args()
    with threadpool_limits(given.threads):
        work = [compare(given.rows, width, given.repeats) for width in given.widths]
    result = {key: getattr(given, key) for key in ("rows", "repeats", "threads")} | {"work": work}
    write(given.out, json.dumps(result, indent=1) + "\n")
    print(document(result))
    if given.doc:
        rewrite(given.doc, "Wide LDA", document(result))


if __name__ == "__main__":
    main()
