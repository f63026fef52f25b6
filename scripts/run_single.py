"""Train one LFADS model.

    python scripts/run_single.py                                  the shipped Lorenz data
    python scripts/run_single.py model=generic datamodule=generic \
        datamodule.datafile_pattern=my_data.h5 run_dir=runs/mine  data of your own
    python scripts/run_single.py --resume runs/mine               continue, after kill -9 too

Words of the form key=value override the configuration (Hydra's syntax: trainer.max_epochs=300,
model.kl_ic_scale=1e-5, model=generic …) and the options below.
"""

import argparse
import sys

# ---------- OPTIONS: edit here, or override on the command line ----------
CONFIG_PATH = "../configs/single.yaml"
OVERRIDES = {
    "model": "lorenz",
    "datamodule": "lorenz",
}
RUN_DIR = None  # None: runs/{data}/{time}
CONFIG_DIR = None  # a folder with configurations of your own, searched first
OVERWRITE = False  # True: an existing RUN_DIR is renamed to RUN_DIR.1, not deleted
# -------------------------------------------------------------------------


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--resume", metavar="RUN_DIR", help="continue this run")
    parser.add_argument("--config-path", default=CONFIG_PATH, help="primary configuration")
    parser.add_argument("--config-dir", default=CONFIG_DIR, help="folder searched first")
    parser.add_argument("--overwrite", action="store_true", default=OVERWRITE)
    args = parser.parse_args()

    from lfads_torch.config import format_overrides
    from lfads_torch.runs import resume_single, run_single

    run_dirs = [word for word in args.overrides if word.startswith("run_dir=")]
    overrides = [word for word in args.overrides if word not in run_dirs]
    try:
        if args.resume:
            resume_single(args.resume, overrides)
        else:
            run_single(
                [*format_overrides(OVERRIDES), *overrides],
                run_dir=run_dirs[-1].removeprefix("run_dir=") if run_dirs else RUN_DIR,
                config_path=args.config_path,
                config_dir=args.config_dir,
                overwrite=args.overwrite,
                script=__file__,
            )
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
