"""Is what is lost below a margin? Yes, no, or: these images cannot tell, so many could."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt

from limla.errors import SettingsError
from limla.statistics.paired import PairedDifference, noncentrality, paired_difference

Verdict = Literal["within", "exceeds", "cannot tell"]
_MANY = 10_000
"""So many degrees of freedom make Student's t the normal distribution."""


@dataclass(frozen=True)
class NonInferiority:
    """A loss against a margin.

    Attributes:
        margin: the loss that is still accepted, in the scores' unit (0.01 is one point of accuracy).
        loss, low, high: mean score before − after, and its interval.
        verdict: "within" where high < margin, "exceeds" where low > margin, else "cannot tell".
        images_needed: about how many images would give a verdict with 80% power, were loss and variance as here:
            "within" of a loss below the margin, "exceeds" of one above; None where there is a verdict, or where more
            images cannot help.
        comparison: the paired comparison behind it (after − before).
    """

    margin: float
    loss: float
    low: float
    high: float
    verdict: Verdict
    images_needed: int | None
    comparison: PairedDifference


def non_inferiority(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    margin: float,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
) -> NonInferiority:
    """Whether `after` loses less than `margin` against `before`; arrays and the other arguments as `paired_difference`.

    The bounds are the ends of the two-sided interval that is shown beside them, so page and verdict never disagree:
    at 95% each is a one-sided 97.5% bound, the convention of ICH E9 (1998).
    """
    if not margin > 0 or math.isinf(margin):
        raise SettingsError(f"margin {margin} must be above 0, for example 0.01 for one point of accuracy")
    found = paired_difference(
        before, after, confidence=confidence, num_resamples=num_resamples, seed=seed, groups=groups
    )
    loss, low, high = 0.0 - found.difference, 0.0 - found.high, 0.0 - found.low
    verdict: Verdict = "within" if high < margin else "exceeds" if low > margin else "cannot tell"
    needed = _images_needed(found, margin) if verdict == "cannot tell" else None
    return NonInferiority(margin, loss, low, high, verdict, needed, found)


def _images_needed(found: PairedDifference, margin: float) -> int | None:
    """Images for 80% power of a verdict; None where none would do: loss at the margin, or seeds too different.

    The variance of one image is what was seen; for correct/wrong scores at least that of a loss of the size of the
    margin: few or no flips in a small sample, or a single image, do not make the next images certain.
    """
    room = abs(margin + found.difference)
    has_seeds = found.seed_variance > 0
    seed_variance = found.seed_variance if has_seeds else 0.0
    per_image = (found.standard_error**2 - seed_variance) * found.num_images
    if found.is_binary and margin < 1:
        per_image = max(margin * (1 - margin), per_image)  # in this order a NaN is none
    if not (room > 1e-12 and math.isfinite(per_image)):
        return None
    # the images needed judge, not those at hand: only seeds stay as few as they are
    freedom = found.degrees_of_freedom if has_seeds else _MANY
    distance = noncentrality(freedom, (1 - found.confidence) / 2, "larger")
    left = (room / distance) ** 2 - seed_variance
    # the interval of this sample told nothing, so fewer than these would not do, whatever the approximation says
    return max(math.ceil(per_image / left), found.num_images + 1) if left > 0 else None
