"""What the benchmarks share: the model they run, and how a result gets into the documentation."""

from pathlib import Path

import torch
import transformers

LAYERS, WIDTH, HEADS, VOCABULARY = 8, 512, 8, 8192


def random_llama(context: int) -> transformers.PreTrainedModel:
    """A random Llama of about 30 million parameters, float32."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=context,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def rewrite(document: Path, title: str, text: str) -> None:
    """Put a section between its markers, or at the end of a document that has none."""
    name = title.lower()
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = document.read_text() if document.exists() else "# Benchmarks\n"
    section = f"{begin}\n## {title}\n{text}\n{end}"
    if begin in old and end in old:
        head, rest = old.split(begin, 1)
        new = head + section + rest.split(end, 1)[1]
    else:
        new = f"{old.rstrip()}\n\n{section}\n"
    write(document, new)


def write(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    temporary.write_text(text)
    temporary.replace(path)
