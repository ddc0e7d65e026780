"""An OpenAI-style server whose answers are steered; needs the extra `mechguard[serve]`."""
