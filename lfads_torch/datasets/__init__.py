"""Data sets: synthetic ones with known truth, and those of the Neural Latents Benchmark."""
