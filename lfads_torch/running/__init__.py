"""One run: from a configuration to a trained model, its folder and what it infers."""
