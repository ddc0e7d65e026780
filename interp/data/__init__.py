"""Rows of token ids, and the texts and prompts behind them."""

from typing import TYPE_CHECKING

from interp._lazy import attach

if TYPE_CHECKING:
    from interp.data import prompt_sets as prompt_sets
    from interp.data import segments as segments
    from interp.data.named_sets import named as named
    from interp.data.prompt_sets import Prompt as Prompt
    from interp.data.prompt_sets import PromptSet as PromptSet
    from interp.data.prompt_sets import builtin as builtin
    from interp.data.prompt_sets import equalise as equalise
    from interp.data.prompt_sets import read_prompts as read_prompts
    from interp.data.rows import Row as Row
    from interp.data.rows import Rows as Rows
    from interp.data.rows import Texts as Texts
    from interp.data.rows import as_texts as as_texts
    from interp.data.rows import id_rows as id_rows
    from interp.data.rows import read_texts as read_texts
    from interp.data.rows import text_rows as text_rows
    from interp.data.segments import chat_row as chat_row
    from interp.data.segments import with_chat_template as with_chat_template

__getattr__, __all__ = attach(
    __name__,
    {
        "Prompt": "prompt_sets",
        "PromptSet": "prompt_sets",
        "Row": "rows",
        "Rows": "rows",
        "Texts": "rows",
        "as_texts": "rows",
        "builtin": "prompt_sets",
        "chat_row": "segments",
        "equalise": "prompt_sets",
        "id_rows": "rows",
        "named": "named_sets",
        "prompt_sets": "",
        "read_prompts": "prompt_sets",
        "read_texts": "rows",
        "segments": "",
        "text_rows": "rows",
        "with_chat_template": "segments",
    },
)
