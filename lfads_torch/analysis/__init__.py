"""What a trained model is worth: scores and figures."""
