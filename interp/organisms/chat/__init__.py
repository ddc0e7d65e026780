"""Small chat models: grammar, format, exchanges, mixtures, recipes, and what is planted."""
