"""Intervals, tests and limits on plain numpy arrays; docs/statistics.md says what each means and where it comes from."""

from limla.statistics.intervals import (
    FEWEST_OF_EACH,
    Interval,
    ScoreIntervals,
    cramers_v,
    macro_score_intervals,
    mean_interval,
    proportion_interval,
)

__all__ = [
    "FEWEST_OF_EACH",
    "Interval",
    "ScoreIntervals",
    "cramers_v",
    "macro_score_intervals",
    "mean_interval",
    "proportion_interval",
]
