"""Write synthetic data sets with known rates: spikes of a Lorenz system or of a chaotic network.

    python -m lfads_torch.synthetic lorenz --output datasets/lorenz.h5
    python -m lfads_torch.synthetic chaotic_rnn --gain 2.5 --pulse
    python -m lfads_torch.synthetic multisession --output datasets/multisession

datasets/README.md describes the content of the files.
"""

import argparse
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lfads_torch.cli.command import reporting_user_errors
from lfads_torch.data.hdf5 import refuse_existing, write_h5
from lfads_torch.datasets.chaotic_rnn import chaotic_rnn
from lfads_torch.datasets.lorenz import lorenz
from lfads_torch.datasets.multisession import (
    multisession_chaotic_rnn,
    session_paths,
    write_sessions,
)
from lfads_torch.datasets.simulation import Arrays

GENERATORS: dict[str, Callable[..., Arrays] | Callable[..., list[Arrays]]] = {
    "lorenz": lorenz,
    "chaotic_rnn": chaotic_rnn,
    "multisession": multisession_chaotic_rnn,
}

WRITE_FOLDERS = ("multisession",)
"""The generators that write a folder of several files."""

HELP = {
    "seed": "seed of all random draws",
    "n_sessions": "number of sessions",
    "n_conditions": "number of initial states",
    "n_trials": "trials of each condition, training and validation together",
    "n_bins": "bins of a trial",
    "n_neurons": "number of neurons, in each session if there are several",
    "n_latents": "principal components of the network that are kept as latents",
    "bin_width": "width of a bin in seconds",
    "speed": "Lorenz time units per second",
    "mean_rates": "lowest and highest mean rate of a neuron in Hz",
    "modulation": "standard deviation of a neuron's log rate, below max_rate",
    "gain": "recurrent gain; chaotic above 1",
    "tau": "time constant of a unit in seconds",
    "max_rate": "highest rate of a neuron in Hz",
    "pulse": "give each condition an input pulse at a random time",
    "pulse_magnitude": "height of the pulse in its only bin",
    "valid_ratio": "fraction of each condition's trials held out for validation",
    "heldout_neurons": "number of last channels that encod_data lacks",
    "forward_bins": "number of last bins that encod_data lacks",
}


def make_parser() -> argparse.ArgumentParser:
    """Offer every parameter of a generator as an option of its command."""
    parser = argparse.ArgumentParser(
        prog="python -m lfads_torch.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="generator", required=True)
    for name, generator in GENERATORS.items():
        summary = (inspect.getdoc(generator) or name).splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        writes_folder = name in WRITE_FOLDERS
        command.add_argument(
            "--output",
            type=Path,
            default=Path("datasets") / (name if writes_folder else f"{name}.h5"),
            help=f"{'folder' if writes_folder else 'file'} to write (default: %(default)s)",
        )
        command.add_argument("--overwrite", action="store_true", help="replace existing files")
        for key, parameter in inspect.signature(generator).parameters.items():
            option, default = "--" + key.replace("_", "-"), parameter.default
            text = f"{HELP[key]} (default: %(default)s)"
            if isinstance(default, bool):
                command.add_argument(option, action="store_true", help=HELP[key])
            elif isinstance(default, tuple):
                command.add_argument(option, nargs=2, type=float, default=default, help=text)
            else:
                command.add_argument(option, type=type(default), default=default, help=text)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, generate the data, and write and summarise them."""
    options = vars(make_parser().parse_args(words))
    generator, output, overwrite = (options.pop(k) for k in ("generator", "output", "overwrite"))
    with reporting_user_errors() as outcome:
        # Existing files are refused before the data are generated, and again when writing them.
        if generator not in WRITE_FOLDERS:
            refuse_existing(output, overwrite)
        elif options["n_sessions"] > 0:
            session_paths(output, options["n_sessions"], overwrite)
        made = GENERATORS[generator](**options)
        attributes = {"generator": generator, **options}
        if isinstance(made, list):
            paths = write_sessions(output, made, attributes, overwrite)
        else:
            paths, made = [write_h5(output, made, attributes, overwrite)], [made]
        for path, arrays in zip(paths, made, strict=True):
            _print_summary(path, arrays)
    return outcome.status


def _print_summary(path: Path, arrays: Arrays) -> None:
    """Print the path and the size of a file, its arrays, and the mean and highest rate."""
    rates = np.concatenate([arrays["train_truth"], arrays["valid_truth"]])
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    for name, value in sorted(arrays.items()):
        print(f"  {name:<18} {value.dtype.name:<8} {value.shape}")
    print(f"  mean rate {rates.mean(dtype=np.float64):.1f} Hz, highest {rates.max():.1f} Hz")
