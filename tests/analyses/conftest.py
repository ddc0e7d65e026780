"""Synthetic sink findings: one of a model that has everything, one of a model that has little."""

import math
import random
from typing import Any

import pytest

NASTY = "</script><b>&\x00\n\u202e\ud800 "


def _head(rng: random.Random, layer: int, head: int) -> dict[str, Any]:
    sink = layer >= 2 and head % 3 != 0
    alpha = rng.uniform(0.4, 0.95) if sink else rng.uniform(0.03, 0.25)
    gate = rng.uniform(0.02, 0.1) if sink else rng.uniform(0.3, 0.7)
    effect = abs(rng.gauss(0, 0.004)) if sink else abs(rng.gauss(0.02, 0.03))
    row: dict[str, Any] = {
        "layer": layer,
        "head": head,
        "kv_head": head // 2,
        "attention": "sliding" if layer % 4 == 1 else "full",
        "alpha_first": alpha,
        "sink_percent": 100.0 if alpha > 0.5 else 83.0 if sink else 4.0,
        "sink_mass": alpha - 0.02,
        "gated_sink_mass": alpha * gate,
        "sink_output_share": rng.random() * 0.3,
        "value_norm_first": 0.2,
        "value_norm_rest": 2.0,
        "value_ratio": 10 ** rng.uniform(-1.6, -0.8) if sink else 10 ** rng.uniform(-0.3, 0.3),
        "raw_value_ratio": 0.2,
        "key_norm_first": rng.uniform(3, 5) if sink else rng.uniform(8, 12),
        "key_norm_rest": rng.uniform(9, 12),
        "entropy": rng.uniform(0.1, 0.4) if sink else rng.uniform(0.5, 0.9),
        "column_entropy": rng.uniform(0.9, 1.0) if sink else rng.uniform(0.3, 0.9),
        "entropy_sink": sink,
        "participation": rng.uniform(1, 8),
        "logit_gap": rng.uniform(4, 9) if sink else rng.uniform(-1, 2),
        "learned_sink": rng.uniform(0, 0.4),
        "gate_mean": gate,
        "gate_below_0_01": 0.1,
        "gate_below_0_1": 0.6,
        "output_norm": rng.uniform(0.5, 3),
        "output_norm_gated": rng.uniform(0.1, 1),
        "ablation_delta_loss": effect,
        "move_to_sink_delta_loss": effect * rng.uniform(0.6, 1.2),
        "random_delta_loss": abs(rng.gauss(0, 0.006)),
    }
    for key in (
        "alpha_first",
        "ablation_delta_loss",
        "move_to_sink_delta_loss",
        "random_delta_loss",
    ):
        spread = 0.02 if key == "alpha_first" else 0.004
        row |= {f"{key}_low": row[key] - spread, f"{key}_high": row[key] + spread}
    return row


def _layer(rng: random.Random, layer: int, heads: list[dict[str, Any]]) -> dict[str, Any]:
    massive = 2 <= layer <= 6
    own = [row["sink_percent"] for row in heads if row["layer"] == layer]
    return {
        "layer": layer,
        "attention": "sliding" if layer % 4 == 1 else "full",
        "residual_norm_first": 400.0 + layer if massive else 12.0 + layer,
        "residual_norm_rest": 11.0 + 3 * layer,
        "residual_peak": 380.0 if massive else 1.0,
        "residual_ratio": 20.0 if massive else 1.1,
        "max_abs": 380.0 + rng.random() if massive else 6.0 + layer,
        "median_abs": 0.11 + 0.02 * layer,
        "first_token_attention": 0.1 + 0.05 * layer,
        "gate_mean": 0.3,
        "sink_percent": sum(own) / len(own),
    }


def _provenance() -> dict[str, Any]:
    return {
        "model": "example-lab/gated-8x8-1b",
        "revision": "3f9c2a7be14d5a60c8b17e92fd04b6a1d7e8c935",
        "fingerprint": "9b2e" * 16,
        "model_type": "qwen3_5_text",
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa with statistics",
        "tokenizer_hash": "41ac" * 16,
        "bos": True,
        "data": [
            {"name": "stories.txt", "sha256": "0f" * 32, "sequences": 100, "skipped": 7},
            {"name": "code.jsonl", "sha256": "1e" * 32, "sequences": 80, "skipped": 0},
        ],
        "seed": 0,
        "versions": {"mechguard": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "command": "mechguard sinks example-lab/gated-8x8-1b --texts stories.txt --out report",
        "wall_seconds": 83.4,
        "started": "2026-11-23T12:43:00+00:00",
    }


def _domain_heads(rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for layer in range(8):
        for head in range(8):
            low, gap = rng.uniform(0.05, 0.6), rng.uniform(0, 0.35)
            rows.append(
                {
                    "layer": layer,
                    "head": head,
                    "domain_low": "code.jsonl",
                    "domain_high": "stories.txt",
                    "sink_mass_low": low,
                    "sink_mass_high": low + gap,
                    "auc": 0.5 + gap,
                    "delta_loss_low": gap / 10,
                    "delta_loss_high": 0.001,
                    "switching": gap > 0.3,
                }
            )
    return rows


def _massive() -> list[dict[str, Any]]:
    places = [(0, "<bos>"), (0, "<bos>"), (9, NASTY), (14, "\n")]
    return [
        {
            "layer": layer,
            "position": position,
            "token": token,
            "dim": 1415 + 7 * index,
            "value": (-1) ** index * (380.25 - 40 * index),
            "median": 0.15,
            "sequences": 100 - 20 * index,
        }
        for layer in range(2, 7)
        for index, (position, token) in enumerate(places)
    ]


def _full() -> dict[str, Any]:
    rng = random.Random(7)
    heads = [_head(rng, layer, head) for layer in range(8) for head in range(8)]
    uniform = sum(1 / i for i in range(1, 65)) / 64
    rates = [(e / 20, 100 * math.exp(-1.9 * e / 20)) for e in range(1, 19)]
    mass = [0.52, *(0.9 / (p + 4) for p in range(1, 64))]
    return {
        "kind": "sinks",
        "format_version": 1,
        "verdict": "",
        "provenance": _provenance(),
        "sink_rate": {
            "epsilon": 0.3,
            "length": 64,
            "percent": 55.23,
            "interval": [53.11, 57.02],
            "sequences": 180,
            "uniform_alpha": uniform,
            "by_epsilon": [
                {"epsilon": e, "percent": p, "interval": [p - 2, p + 2]} for e, p in rates
            ],
        },
        "first_token_attention": 0.4123,
        "first_token_attention_interval": [0.401, 0.425],
        "m_act": 241.7,
        "m_act_interval": [236.0, 247.9],
        "heads": heads,
        "layers": [_layer(rng, layer, heads) for layer in range(8)],
        "embedding": {
            "residual_norm_first": 1.2,
            "residual_norm_rest": 1.1,
            "max_abs": 0.4,
            "median_abs": 0.02,
        },
        "final_norm": {
            "residual_norm_first": 30.0,
            "residual_norm_rest": 41.0,
            "max_abs": 12.0,
            "median_abs": 0.8,
        },
        "massive_activations": _massive(),
        "positions": [
            {
                "position": p,
                "mass": m,
                "low": m * 0.93,
                "high": m * 1.07,
                "uniform": sum(1 / i for i in range(p + 1, 65)) / (64 - p),
            }
            for p, m in enumerate(mass)
        ],
        "sink_tokens": [
            {"token": "<bos>", "kind": "bos", "position": 0, "heads": 31, "mass": 0.61},
            {"token": ".", "kind": "delimiter", "position": 9, "heads": 4, "mass": 0.22},
            {"token": "\n", "kind": "delimiter", "position": 14, "heads": 3, "mass": 0.19},
            {"token": NASTY, "kind": "other", "position": 3, "heads": 1, "mass": 0.11},
        ],
        "domains": [
            {
                "name": name,
                "sequences": n,
                "skipped": skipped,
                "sink_percent": percent,
                "interval": [percent - 2.5, percent + 2.5],
                "first_token_attention": 0.4,
                "loss": 2.31,
            }
            for name, n, skipped, percent in (
                ("stories.txt", 100, 7, 61.0),
                ("code.jsonl", 80, 0, 48.0),
            )
        ],
        "domain_heads": _domain_heads(rng),
        "causal": {"sequences": 16, "baseline_loss": 2.307, "interval": [2.21, 2.4]},
        "parity": {"max_logit_difference": 0.0, "max_statistic_difference": 2.4e-7},
        "caveats": [
            "Sink rates depend on the length: compare them at 64 tokens only.",
            "Attention on the first token does not show that a head is unused.",
        ],
    }


def _plain() -> dict[str, Any]:
    """An ungated model without sinks: optional fields are null or not there at all."""
    finding = _full()
    absent = ("gated_sink_mass", "sink_output_share", "gate_mean", "learned_sink", "entropy_sink")
    for row in finding["heads"]:
        row |= {"alpha_first": 0.08, "sink_percent": 0.0, "sink_mass": 0.06, "attention": "full"}
        row |= {"alpha_first_low": 0.07, "alpha_first_high": 0.09}
        row |= dict.fromkeys(absent)
        for key in [key for key in row if "delta_loss" in key or key.startswith("gate_")]:
            row[key] = None
        del row["column_entropy"]
    for row in finding["layers"]:
        row |= {"max_abs": 9.5, "gate_mean": None, "attention": "full"}
    finding["sink_rate"] |= {"percent": 0.0, "interval": [0.0, 1.2], "by_epsilon": None}
    for key in ("causal", "embedding", "final_norm", "domain_heads", "sink_tokens", "positions"):
        finding[key] = None
    finding |= {"massive_activations": [], "domains": finding["domains"][:1], "caveats": []}
    del finding["parity"], finding["m_act_interval"]
    finding["provenance"] |= {"bos": False, "command": None}
    return finding


@pytest.fixture
def full() -> dict[str, Any]:
    """A gated 8 × 8 model with learned sinks, sliding layers, two domains and a causal panel."""
    return _full()


@pytest.fixture
def plain() -> dict[str, Any]:
    """The same numbers of heads and layers, with everything optional taken away."""
    return _plain()
