"""Organisms: small trained models whose ground truth is known because we planted it.

`path(name)` is a folder that transformers loads offline; `mechguard.load("organism:NAME")` uses it.
"""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp.organisms.architectures import Architecture as Architecture
    from interp.organisms.bigram_backcopy.grammar import Grammar as Grammar
    from interp.organisms.bigram_backcopy.grammar import Oracle as Oracle
    from interp.organisms.bigram_backcopy.grammar import char_grammar as char_grammar
    from interp.organisms.bigram_backcopy.grammar import small_grammar as small_grammar
    from interp.organisms.chat.data import OrganismPrompt as OrganismPrompt
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
    from interp.organisms.variants import Variant as Variant

__getattr__, __all__ = attach(
    __name__,
    {
        "Architecture": "architectures",
        "Grammar": "bigram_backcopy.grammar",
        "Oracle": "bigram_backcopy.grammar",
        "OrganismPrompt": "chat.data",
        "Recipe": "recipes",
        "Variant": "variants",
        "char_grammar": "bigram_backcopy.grammar",
        "names": "registry",
        "path": "registry",
        "present": "registry",
        "prompts": "registry",
        "read_truth": "folders",
        "recipe": "registry",
        "small_grammar": "bigram_backcopy.grammar",
        "texts": "registry",
        "train": "registry",
        "truth": "registry",
        "verify": "registry",
    },
)
