"""What needs packages that a single run does without."""
