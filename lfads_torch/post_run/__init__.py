"""The published names of posterior sampling and of the history of tuning runs."""
