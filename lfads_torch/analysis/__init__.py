"""Scores and figures of what a trained model infers, and submissions to a benchmark."""
