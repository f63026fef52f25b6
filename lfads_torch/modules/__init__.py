"""The parts of the model, one file for each step in the flow of the data."""
