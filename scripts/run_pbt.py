"""Train a population of LFADS models, and search their hyperparameters: AutoLFADS.

    python scripts/run_pbt.py                                     the shipped Lorenz data
    python scripts/run_pbt.py model=generic datamodule=generic \
        datamodule.datafile_pattern=my_data.h5 run_dir=runs/mine  data of your own
    python scripts/run_pbt.py --resume runs/mine                  go on, after kill -9 too

Words of the form key=value override the configuration: sweep.num_samples=10,
sweep.scheduler.burn_in_period=80, sweep.space.lr_init.max_samp=1e-2, sweep.gpus_per_trial=0.25,
sweep.ray_address=auto, trainer.max_epochs=500 … (configs/sweep/pbt.yaml has them all).
"""

import sys

from lfads_torch.cli.run_options import parse_run, start_or_resume

# ---------- OPTIONS: edit here, or override on the command line ----------
CONFIG_PATH = "../configs/pbt.yaml"
# Any key of the configuration, such as sweep.num_samples (trials), trainer.max_epochs,
# sweep.cpus_per_trial, sweep.gpus_per_trial, sweep.ray_address ("auto": a cluster), sweep.storage.
OVERRIDES = {
    "model": "lorenz",
    "datamodule": "lorenz",
}
# What to search, in place of sweep.space: {"model.lr_init": HyperParam(1e-5, 5e-3), …}, with
# lfads_torch.sweeps.tournament.HyperParam, or lists to choose from.
SPACE = None
RUN_DIR = None  # None: runs/{data}/{time}
CONFIG_DIR = None  # a folder with configurations of your own, searched first
OVERWRITE = False  # True: an existing RUN_DIR is renamed to RUN_DIR.1, not deleted
# -------------------------------------------------------------------------


def main() -> int:
    """Parse the command line and search."""
    args = parse_run(__doc__, CONFIG_PATH, CONFIG_DIR, OVERWRITE)

    from lfads_torch.sweeps.search import resume_sweep, run_sweep

    return start_or_resume(
        args,
        run_sweep,
        resume_sweep,
        OVERRIDES,
        RUN_DIR,
        space=SPACE,
        script=__file__,
    )


if __name__ == "__main__":
    sys.exit(main())
