"""Train LFADS models with hyperparameters drawn at random, and keep the best.

    python scripts/run_multi.py                                   the shipped Lorenz data
    python scripts/run_multi.py model=generic datamodule=generic \
        datamodule.datafile_pattern=my_data.h5 run_dir=runs/mine  data of your own
    python scripts/run_multi.py --resume runs/mine                go on, after kill -9 too

Words of the form key=value override the configuration: sweep.num_samples=10,
sweep.space.dropout_rate.max_samp=0.3, '+sweep.space.gen={key: model.gen_dim, choice: [64, 128]}',
sweep.ray_address=auto, trainer.max_epochs=500 … (configs/sweep/random.yaml has them all).
"""

import argparse
import sys

# ---------- OPTIONS: edit here, or override on the command line ----------
CONFIG_PATH = "../configs/multi.yaml"
# Any key of the configuration, such as sweep.num_samples (trials), trainer.max_epochs,
# sweep.cpus_per_trial, sweep.gpus_per_trial, sweep.ray_address ("auto": a cluster), sweep.storage.
OVERRIDES = {
    "model": "lorenz",
    "datamodule": "lorenz",
}
# What to search, in place of sweep.space: {"model.lr_init": HyperParam(1e-5, 5e-3), …}, with
# lfads_torch.extensions.tune.HyperParam, or lists to choose from.
SPACE = None
RUN_DIR = None  # None: runs/{data}/{time}
CONFIG_DIR = None  # a folder with configurations of your own, searched first
OVERWRITE = False  # True: an existing RUN_DIR is renamed to RUN_DIR.1, not deleted
# -------------------------------------------------------------------------


def main() -> int:
    """Parse the command line and search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--resume", metavar="RUN_DIR", help="continue this sweep")
    parser.add_argument("--config-path", default=CONFIG_PATH, help="primary configuration")
    parser.add_argument("--config-dir", default=CONFIG_DIR, help="folder searched first")
    parser.add_argument("--overwrite", action="store_true", default=OVERWRITE)
    args = parser.parse_args()

    from lfads_torch.config import format_overrides
    from lfads_torch.sweeps import resume_sweep, run_sweep

    run_dirs = [word for word in args.overrides if word.startswith("run_dir=")]
    overrides = [word for word in args.overrides if word not in run_dirs]
    try:
        if args.resume:
            resume_sweep(args.resume, overrides)
        else:
            run_sweep(
                [*format_overrides(OVERRIDES), *overrides],
                run_dir=run_dirs[-1].removeprefix("run_dir=") if run_dirs else RUN_DIR,
                config_path=args.config_path,
                config_dir=args.config_dir,
                overwrite=args.overwrite,
                script=__file__,
                space=SPACE,
            )
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(f"\n{interruption or 'Interrupted.'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
