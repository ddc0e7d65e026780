"""What a model is: checkpoint, anatomy, modules, sites, artefacts, the TransformerLens bridge."""
