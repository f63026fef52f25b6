"""The published names of classes that need optional packages (Ray Tune, nlb_tools)."""
