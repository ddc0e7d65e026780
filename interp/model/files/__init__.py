"""The files of a checkpoint, checked: its config, its weights and its tokenizer."""
