"""Makes outputs of runs, from which submissions to the Neural Latents Benchmark are made."""

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.running.sampling import run_posterior_sampling
from tests.conftest import tiny_model
from tests.datasets.nlb.benchmark import write


def run_dir(folder, name, arrays, model=None, **datamodule):
    """Write the output of a run on these data, and return the folder of the run."""
    path = write(folder / name, arrays)
    dm = BasicDataModule(str(path), batch_size=16, **datamodule)
    run_posterior_sampling(
        model or tiny_model(), dm, folder / "run" / "lfads_output.h5", num_samples=2
    )
    return folder / "run"
