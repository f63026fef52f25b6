"""The Neural Latents Benchmark: downloading its recordings and making data files of them."""
