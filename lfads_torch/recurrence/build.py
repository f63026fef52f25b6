"""Builds the compiled library once, on the machine that runs it, and loads it.

The source, in ``kernels``, needs a C++ compiler and the standard library only, and compiles in
seconds. The library is kept in the user's cache folder, under a name that is a hash of its source,
the processor and the version of PyTorch. On processors without AVX2 it uses the matrix products of
the BLAS library that comes with PyTorch.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from lfads_torch.files import written_atomically

SOURCE = Path(__file__).with_name("kernels")
"""Folder of the source; ``library.cpp`` is compiled, which includes everything else."""
TIMEOUT = 60.0
"""Seconds after which the compiler is stopped."""
CACHE_VARIABLE = "LFADS_TORCH_CACHE"
"""Environment variable that sets another cache folder."""


class Unavailable(RuntimeError):
    """The compiled library cannot be built, loaded or trusted on this machine."""


def load() -> ctypes.CDLL:
    """Return the library, which is built first if it is not in the cache folder.

    Raises
    ------
    Unavailable
        If there is no compiler, if it fails, or if PyTorch's BLAS library is needed and not found.
    """
    path = library_path()
    if path.is_file():
        with contextlib.suppress(OSError):
            return _open(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            if not path.is_file():
                _compile(path)
        return _open(path)
    except OSError:  # The folder cannot be written to, or libraries cannot be loaded from it.
        pass
    try:
        with tempfile.TemporaryDirectory(prefix="lfads_torch-") as folder:
            private = Path(folder) / path.name
            _compile(private)
            return _open(private)
    except OSError as error:
        raise Unavailable(f"{path.name} cannot be built or loaded: {error}") from error


def library_path() -> Path:
    """Return where the library for this machine is kept."""
    files = [*sorted(SOURCE.glob("*.h")), SOURCE / "library.cpp"]
    source = [path.read_text(encoding="utf-8") for path in files]
    parts = [*source, repr(_flags()), _processor(), torch.__version__]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    suffix = ".dll" if sys.platform == "win32" else ".so"
    return _cache_folder() / f"recurrence-{key}{suffix}"


def _cache_folder() -> Path:
    """Return the folder in which compiled libraries are kept."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lfads_torch"


def _processor() -> str:
    """Return a description of the processor that changes whenever compiled code may differ."""
    description = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = ("model name", "flags", "Features", "CPU part")
        description += sorted({line for line in lines if line.startswith(names)})
    return "\n".join(description)


def _flags() -> list[list[str]]:
    """Return alternative options for the compiler, the fastest first."""
    common = ["-O3", "-std=gnu++17", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math"]
    native = ["-march=native"]
    if platform.machine().lower() in ("x86_64", "amd64"):
        native.append("-mprefer-vector-width=512")
    elif platform.machine().lower() in ("arm64", "aarch64"):
        native = ["-mcpu=native"]
    return [[*common, *native, "-fopenmp"], [*common, *native], common]


def _compile(path: Path) -> None:
    """Compile to a temporary file and rename it, so that no process loads an incomplete library."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compilers = [found for name in names if name and (found := shutil.which(name))]
    if not compilers:
        raise Unavailable("there is no C++ compiler (c++, g++ or clang++)")
    deadline = time.monotonic() + TIMEOUT
    message = ""
    for flags in _flags():
        left = max(deadline - time.monotonic(), 1.0)
        try:
            with written_atomically(path) as partial:
                command = [compilers[0], *flags, str(SOURCE / "library.cpp"), "-o", str(partial)]
                subprocess.run(command, capture_output=True, text=True, timeout=left, check=True)
                return
        except subprocess.CalledProcessError as error:
            message = (error.stderr.strip().splitlines() or ["no message"])[0]
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{compilers[0]} took more than {TIMEOUT:g} s") from None
    raise Unavailable(f"{compilers[0]} failed: {message}")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process build while others wait; after the timeout, continue without the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as file:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield


def _blas() -> tuple[int, int, int]:
    """Return the addresses of sgemm, dgemm and the function that sets their threads (or 0)."""
    folder = Path(torch.__file__).parent / "lib"
    places = [folder / name for name in ("libtorch_cpu.so", "libtorch_cpu.dylib")]
    places.append(Path("/System/Library/Frameworks/Accelerate.framework/Accelerate"))
    for place in places:
        try:
            library = ctypes.CDLL(str(place))
            sgemm, dgemm = _address(library, "sgemm_"), _address(library, "dgemm_")
        except (OSError, AttributeError):
            continue
        for name in ("MKL_Set_Num_Threads_Local", "openblas_set_num_threads_local"):
            with contextlib.suppress(AttributeError):
                return sgemm, dgemm, _address(library, name)
        return sgemm, dgemm, 0
    raise Unavailable("PyTorch has no BLAS library with sgemm_ and dgemm_")


def _address(library: ctypes.CDLL, name: str) -> int:
    """Return the address of a function of a library."""
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _open(path: Path) -> ctypes.CDLL:
    """Open a compiled library, and pass it the BLAS functions that it needs."""
    library = ctypes.CDLL(str(path))
    if library.lfads_needs_blas():
        library.lfads_start(*map(ctypes.c_void_p, _blas()))
    return library
