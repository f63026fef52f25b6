"""The command lines of the scripts, one command a file."""
