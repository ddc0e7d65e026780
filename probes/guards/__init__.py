"""Guards: probes that read the prefill of a conversation, with a threshold and a cascade."""
