"""One run: composes a configuration, trains a model, and writes its folder with the results."""
