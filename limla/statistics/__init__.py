"""Intervals, tests and limits on plain numpy arrays; docs/statistics.md has each one's meaning and source."""

from limla.statistics.confidence import CalibrationError, expected_calibration_error
from limla.statistics.intervals import (
    FEWEST_OF_EACH,
    Interval,
    ScoreIntervals,
    cramers_v,
    macro_score_intervals,
    mean_interval,
    proportion_interval,
)
from limla.statistics.multiple import holm
from limla.statistics.non_inferiority import NonInferiority, Verdict, non_inferiority
from limla.statistics.paired import PairedDifference, paired_difference
from limla.statistics.rate_curves import BdResult, bd_metrics
from limla.statistics.rate_intervals import BdInterval, bd_interval
from limla.statistics.score_interval import paired_score_interval

__all__ = [
    "FEWEST_OF_EACH",
    "BdInterval",
    "BdResult",
    "CalibrationError",
    "Interval",
    "NonInferiority",
    "PairedDifference",
    "ScoreIntervals",
    "Verdict",
    "bd_interval",
    "bd_metrics",
    "cramers_v",
    "expected_calibration_error",
    "holm",
    "macro_score_intervals",
    "mean_interval",
    "non_inferiority",
    "paired_difference",
    "paired_score_interval",
    "proportion_interval",
]
