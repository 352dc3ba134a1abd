"""Many tests at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm's step-down adjustment (Scandinavian J. Statistics 6, 1979), through statsmodels; shape is kept.

    Rejecting where the result is below 0.05 keeps the chance of any false alarm among all of them below 5%, whatever
    their dependence. NaN (a test that could not be made) stays NaN and does not count.
    """
    from statsmodels.stats.multitest import multipletests

    given = np.asarray(p_values, np.float64)
    is_known = ~np.isnan(given)
    if ((given[is_known] < 0) | (given[is_known] > 1)).any():
        raise ValueError("p-values must lie in [0, 1]")
    adjusted = np.full(given.shape, np.nan)
    if is_known.any():
        adjusted[is_known] = multipletests(given[is_known], method="holm")[1]
    return adjusted
