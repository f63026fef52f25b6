"""The parts of the model, one station of the data's way a file."""
