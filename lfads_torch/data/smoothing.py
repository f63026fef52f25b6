"""Smooths along time with a Gaussian, for average responses and for estimates of rates."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d


def smooth(
    values: ArrayLike,
    width: float,
    axis: int = 1,
    mode: Literal["reflect", "constant", "nearest", "mirror", "wrap"] = "reflect",
) -> NDArray[Any]:
    """Convolve an array with a Gaussian along one axis.

    The Gaussian is cut off at four standard deviations and its weights sum to one
    (:func:`scipy.ndimage.gaussian_filter1d`).

    Parameters
    ----------
    values
        Numbers without NaN, for example counts (trials, time, channels). Integers and Booleans
        are converted to double precision; floating-point numbers keep their precision.
    width
        Standard deviation of the Gaussian, in bins. With 0 the values are returned unchanged.
    axis
        The axis that is time.
    mode
        What is assumed beyond the ends of that axis, as in SciPy: ``"reflect"`` mirrors the
        values, ``"constant"`` takes zeros. To average only over the samples that were observed,
        smooth the sums of the observed samples and their numbers with ``"constant"`` and divide.

    Returns
    -------
    NDArray
        The smoothed values, in the shape of ``values``.
    """
    array = np.asarray(values)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if width == 0:
        return array
    return gaussian_filter1d(array, width, axis=axis, mode=mode)
