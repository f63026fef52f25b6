"""Package metadata.

The configurations live in the top-level folder ``configs/`` of a checkout and are installed as the
package ``lfads_torch.configs``, so that they are found in the same way from a checkout, an editable
install and a wheel.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Read ``__version__`` from the package's source, without importing the package."""
    source = (ROOT / "lfads_torch" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('lfads_torch/__init__.py has no line like: __version__ = "1.2.3"')
    return match.group(1)


setup(
    name="lfads_torch",
    version=read_version(),
    description="Latent factor analysis via dynamical systems (LFADS) in PyTorch",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The lfads_torch developers",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["neuroscience", "LFADS", "dynamical systems", "variational autoencoder", "PyTorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["lfads_torch", "lfads_torch.*"]), "lfads_torch.configs"],
    package_dir={"lfads_torch.configs": "configs"},
    package_data={
        "lfads_torch": ["py.typed", "recurrence/kernels/*"],
        "lfads_torch.configs": ["**/*.yaml"],
    },
    install_requires=[
        "torch>=2.6",
        "pytorch-lightning>=2.5,<3",
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "h5py>=3.8",
        "numpy>=1.26",
        "scipy",
        "scikit-learn",
        "matplotlib>=3.7",
        "tensorboard>=2.14",
    ],
    extras_require={
        # The binary tournament relies on hooks of Ray's scheduler that change between releases.
        "tune": ["ray[tune]>=2.60,<2.61"],
        # What nlb_tools needs. nlb_tools 0.0.4 itself demands a pandas that no supported Python can
        # install, so it cannot be named here: pip install --no-deps nlb_tools==0.0.4
        "nlb": ["pandas>=2.2,<4", "pynwb>=2.8", "scipy", "scikit-learn"],
        "wandb": ["wandb"],
        "dev": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter",
            "pre-commit",
            # To run the notebooks in the tests.
            "nbclient",
            "ipykernel",
        ],
    },
)
