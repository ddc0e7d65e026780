"""The training-dynamics finding: how sinks, drains and peaks come about on Bigram-Backcopy."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from analyses.bigram_backcopy.dynamics import MODELS as MODELS
    from analyses.bigram_backcopy.dynamics import VARIANTS as VARIANTS
    from analyses.bigram_backcopy.dynamics import bigram_backcopy as bigram_backcopy
    from analyses.bigram_backcopy.finding import BigramBackcopyFinding as BigramBackcopyFinding
    from analyses.bigram_backcopy.relu import relu_attention as relu_attention

__getattr__, __all__ = attach(
    __name__,
    {
        "MODELS": "dynamics",
        "VARIANTS": "dynamics",
        "BigramBackcopyFinding": "finding",
        "bigram_backcopy": "dynamics",
        "relu_attention": "relu",
    },
)
