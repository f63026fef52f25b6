"""The data sets that the library recognises by their file names, and how to get them."""

import fnmatch
import shlex
from pathlib import Path

DANDI = {
    "mc_maze": "000128",
    "mc_maze_large": "000138",
    "mc_maze_medium": "000139",
    "mc_maze_small": "000140",
    "mc_rtt": "000129",
    "area2_bump": "000127",
    "dmfc_rsg": "000130",
}
"""The recordings of the Neural Latents Benchmark, and their numbers in the DANDI archive."""


def how_to_get(path: Path) -> str:
    """Return a sentence that says how to make or download a file that is missing.

    Parameters
    ----------
    path
        The missing file, or a pattern that matches no file. Its name determines the data set.
    """
    for name in ("lorenz", "chaotic_rnn"):
        if path.name.startswith(name):
            return _generate(name, path)
    if path.name.startswith("sess") and path.parent.name == "multisession":
        return _generate("multisession", path.parent)
    names = fnmatch.filter(DANDI, path.name.split("-")[0])
    if names:
        return (
            f"This is data of the Neural Latents Benchmark, DANDI "
            f"{', '.join(DANDI[name] for name in names)} "
            f"(https://dandiarchive.org/dandiset/{DANDI[names[0]]}). Make the file by "
            f"scripts/prepare_nlb.py {' '.join(names)} (docs/nlb.md)."
        )
    return "Give the path of an HDF5 file, or a pattern that matches one file for each session."


def _generate(generator: str, output: Path) -> str:
    """Return a sentence with the command that generates a synthetic data set."""
    return (
        f"Generate it: python -m lfads_torch.synthetic {generator} --output "
        f"{shlex.quote(str(output))}"
    )
