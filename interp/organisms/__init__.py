"""Organisms: small trained models whose ground truth is known because we planted it.

`path(name)` is a folder that transformers loads offline; `interp.load("organism:NAME")` uses it.
"""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp.organisms.architectures import Architecture as Architecture
    from interp.organisms.bigram_backcopy import Grammar as Grammar
    from interp.organisms.bigram_backcopy import Oracle as Oracle
    from interp.organisms.bigram_backcopy import char_grammar as char_grammar
    from interp.organisms.bigram_backcopy import small_grammar as small_grammar
    from interp.organisms.data import OrganismPrompt as OrganismPrompt
    from interp.organisms.folders import read_truth as read_truth
    from interp.organisms.recipes import Recipe as Recipe
    from interp.organisms.registry import names as names
    from interp.organisms.registry import path as path
    from interp.organisms.registry import present as present
    from interp.organisms.registry import prompts as prompts
    from interp.organisms.registry import recipe as recipe
    from interp.organisms.registry import texts as texts
    from interp.organisms.registry import train as train
    from interp.organisms.registry import truth as truth
    from interp.organisms.registry import verify as verify
    from interp.organisms.training import Schedule as Schedule
    from interp.organisms.training import train_model as train_model
    from interp.organisms.variants import Variant as Variant

__getattr__, __all__ = attach(
    __name__,
    {
        "Architecture": "architectures",
        "Grammar": "bigram_backcopy",
        "Oracle": "bigram_backcopy",
        "char_grammar": "bigram_backcopy",
        "small_grammar": "bigram_backcopy",
        "OrganismPrompt": "data",
        "Recipe": "recipes",
        "Schedule": "training",
        "Variant": "variants",
        "names": "registry",
        "path": "registry",
        "present": "registry",
        "prompts": "registry",
        "read_truth": "folders",
        "recipe": "registry",
        "texts": "registry",
        "train": "registry",
        "truth": "registry",
        "verify": "registry",
        "train_model": "training",
    },
)
