"""Many runs: random search and population-based training."""
