"""What is done with a trained model: posterior sampling, and the histories of tuning runs."""
