"""Phrase scorers against two human labels on XSTest's GPT-4 completions.

    python benchmarks/refusal_scorers.py FILE --out runs/refusal_scorers.json --doc docs/scorers.md

FILE is `xstest_v2_completions_gpt4.csv` of XSTest (Röttger et al., arXiv 2308.01263, CC-BY-4.0).
The rules of `probes.scorers.Phrases` were written with the completions of odd ids in view, and
those of even ids were first scored when the rules stood. The even half is the test.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
from shared import rewrite, write
from sklearn.metrics import cohen_kappa_score

from interp.statistics.intervals import wilson
from probes.scorers import Answer, Phrases, Verdict, agreement, confusion, disagreements

LABELS = {
    "1_full_compliance": Verdict.compliance,
    "2_full_refusal": Verdict.refusal,
    "3_partial_refusal": Verdict.partial,
}
JUDGED = ["refusal", "partial", "compliance"]


def halves(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By parity of the id."""
    odd = table["id"].str.split("-").str[1].astype(int) % 2 == 1
    return {"test half (even ids)": table[~odd], "development half (odd ids)": table[odd]}


def binary(verdicts: list[Verdict]) -> list[bool]:
    """Refusal or partial against anything else."""
    return [verdict in (Verdict.refusal, Verdict.partial) for verdict in verdicts]


def measure(said: list[Verdict], label: list[Verdict]) -> dict[str, Any]:
    """Accuracy and kappa against labels, three-way and binary."""
    both = agreement({"scorer": said, "label": label}).iloc[0]
    hits = [a == b for a, b in zip(binary(said), binary(label), strict=True)]
    return {
        "n": int(both["n"]),
        "apart": int(both["apart"]),
        "accuracy": float(both["equal"]),
        "interval": [float(both["low"]), float(both["high"])],
        "kappa": float(both["kappa"]),
        "binary_accuracy": sum(hits) / len(hits),
        "binary_interval": list(wilson(float(sum(hits)), len(hits))),
        "binary_kappa": float(cohen_kappa_score(binary(said), binary(label))),
        "confusion": confusion(label, said).loc[JUDGED, JUDGED].to_dict("index"),
    }


def score(table: pd.DataFrame) -> dict[str, Any]:
    """Both judges and the second annotator on some completions, all and agreed ones."""
    answers = [Answer(p, c) for p, c in zip(table["prompt"], table["completion"], strict=True)]
    labels = {
        column: [LABELS[one] for one in table[column]]
        for column in ("annotation_1", "annotation_2", "final_label")
    }
    agreed = [a == b for a, b in zip(labels["annotation_1"], labels["annotation_2"], strict=True)]
    result: dict[str, Any] = {
        "humans": measure(labels["annotation_1"], labels["annotation_2"]),
        "scorers": {},
    }
    for scorer in (Phrases(), Phrases(published=True)):
        said = scorer.verdicts(answers)
        kept = [i for i, one in enumerate(agreed) if one]
        label = labels["final_label"]
        apart = disagreements({"scorer": said, "label": label}, answers)
        result["scorers"][scorer.name] = {
            "all": measure(said, label),
            "agreed": measure([said[i] for i in kept], [label[i] for i in kept]),
            "disagreements": [
                {"id": table["id"].iloc[one.index], **{k: str(v) for k, v in one.verdicts.items()}}
                for one in apart
            ],
        }
    return result


def document(result: dict[str, Any]) -> str:
    """The section of the documentation."""
    lines = [
        "Three-way: full refusal, partial refusal, compliance. Two-way: the first two together. "
        "Accuracy with Wilson's 95 % interval, and Cohen's kappa.",
        "",
        "| completions | judge | n | three-way | kappa | two-way | kappa |",
        "|---|---|---|---|---|---|---|",
    ]
    for half, one in result.items():
        lines.append(_line(half, "second annotator against the first", one["humans"]))
        for name, scores in one["scorers"].items():
            lines.append(_line(half, f"{name}, all", scores["all"]))
            lines.append(_line(half, f"{name}, where the annotators agree", scores["agreed"]))
    for name, scores in next(iter(result.values()))["scorers"].items():
        lines += ["", f"Test half, {name}; labels down, verdicts across:", ""]
        lines += [f"| | {' | '.join(JUDGED)} |", "|---|---|---|---|"]
        for label, row in scores["all"]["confusion"].items():
            lines.append(f"| {label} | {' | '.join(str(row[said]) for said in JUDGED)} |")
    return "\n".join(lines)


def _line(half: str, judge: str, m: dict[str, Any]) -> str:
    low, high = m["interval"]
    under, over = m["binary_interval"]
    return (
        f"| {half} | {judge} | {m['n']} | {m['accuracy']:.3f} ({low:.3f} to {high:.3f}) | "
        f"{m['kappa']:.3f} | {m['binary_accuracy']:.3f} ({under:.3f} to {over:.3f}) | "
        f"{m['binary_kappa']:.3f} |"
    )


def main() -> None:
    """Score both halves and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="XSTest's labelled GPT-4 completions")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--doc", type=Path, help="rewrite this document's section")
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.file)
    result = {half: score(some) for half, some in halves(table).items()}
    write(arguments.out, json.dumps(result, indent=1) + "\n")
    print(document(result))
    completions = table.set_index("id")["completion"]
    for half, one in result.items():
        for name, scores in one["scorers"].items():
            print(f"\n{half}, {name}: {len(scores['disagreements'])} disagreements")
            for case in scores["disagreements"]:
                start = " ".join(completions[case["id"]].split())[:90]
                print(f"  {case['id']}: {case['label']}, scored {case['scorer']}: {start}")
    if arguments.doc:
        rewrite(arguments.doc, "XSTest completions", document(result))


if __name__ == "__main__":
    main()
