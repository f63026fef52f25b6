"""Train LFADS models with hyperparameters drawn at random, and keep the best.

    python scripts/run_multi.py                                   the shipped Lorenz data
    python scripts/run_multi.py model=generic datamodule=generic \
        datamodule.datafile_pattern=my_data.h5 run_dir=runs/mine  your own data
    python scripts/run_multi.py --resume runs/mine                continue, even after kill -9

Arguments of the form key=value override the configuration: sweep.num_trials=10,
sweep.space.dropout_rate.max_samp=0.3, '+sweep.space.gen={key: model.gen_dim, choice: [64, 128]}',
sweep.ray_address=auto, trainer.max_epochs=500 … (configs/sweep/base.yaml has them all).
"""

import sys

from lfads_torch.cli.run_sweep import main

# ---------- OPTIONS: edit here, or override on the command line ----------
CONFIG_PATH = None  # None: the packaged configs/multi.yaml; otherwise the path of your own file
# Any key of the configuration, such as sweep.num_trials, trainer.max_epochs,
# sweep.cpus_per_trial, sweep.gpus_per_trial, sweep.ray_address ("auto": a cluster), sweep.storage.
OVERRIDES = {
    "model": "lorenz",
    "datamodule": "lorenz",
}
# What to search, in place of sweep.space: {"model.lr_init": HyperParam(1e-5, 5e-3), …}, with
# lfads_torch.extensions.tune.HyperParam, or lists to choose from.
SPACE = None
RUN_DIR = None  # None: runs/{data}/{time}
CONFIG_DIR = None  # a folder with your own configurations, which is searched first
OVERWRITE = False  # True: an existing RUN_DIR is renamed to RUN_DIR.1, not deleted
# -------------------------------------------------------------------------


if __name__ == "__main__":
    options = CONFIG_PATH, OVERRIDES, SPACE, RUN_DIR, CONFIG_DIR, OVERWRITE
    sys.exit(main("multi.yaml", __doc__, __file__, *options))
