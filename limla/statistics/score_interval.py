"""A score interval for the difference of two paired proportions, for when few pairs differ."""

from __future__ import annotations

import math
from typing import Any

from limla.statistics.intervals import Interval


def paired_score_interval(
    num_gained: float, num_lost: float, num_pairs: float, critical: float | None = None
) -> Interval:
    """Tango's score interval of (num_gained − num_lost) / num_pairs (Statistics in Medicine 17, 1998, 891–908).

    It holds the differences that a score test would not reject, with the nuisance probability of a loss at its
    maximum under each difference. Unlike a bootstrap it has a width even where no pair differs: z² / (n + z²) to each
    side. The counts may be fractions (effective counts); `critical` is the two-sided critical value, 95%'s 1.96 by
    default.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if min(num_gained, num_lost) < 0 or num_gained + num_lost > num_pairs * (1 + 1e-12) or num_pairs <= 0:
        raise ValueError(f"{num_gained} gained and {num_lost} lost of {num_pairs} pairs is impossible")
    z = float(norm.ppf(0.975)) if critical is None else critical
    estimate = (num_gained - num_lost) / num_pairs

    def excess(difference: float) -> float:
        """The squared score statistic's numerator less z² times its variance: negative inside the interval."""
        variance = _null_variance(difference, num_gained, num_lost, num_pairs)
        return (num_gained - num_lost - num_pairs * difference) ** 2 - z**2 * num_pairs * variance

    # without discordant pairs the estimate itself is a root; the ends lie a step beyond it
    step = 1e-12
    solve: Any = brentq
    low = float(solve(excess, -1, estimate - step, xtol=1e-12)) if estimate > -1 + step else -1.0
    high = float(solve(excess, estimate + step, 1, xtol=1e-12)) if estimate < 1 - step else 1.0
    return Interval(low, high)


def _null_variance(difference: float, num_gained: float, num_lost: float, num_pairs: float) -> float:
    """The variance of one pair's change where the true change is `difference`: Tango's equation for q₂₁."""
    linear = -num_gained - num_lost + (2 * num_pairs - num_gained + num_lost) * difference
    constant = -num_lost * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear**2 - 8 * num_pairs * constant))
    share_lost = (root - linear) / (4 * num_pairs)
    return max(0.0, 2 * share_lost + difference * (1 - difference))
