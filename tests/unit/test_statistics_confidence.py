"""The calibration error: by hand, against its bias, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.errors import SettingsError
from limla.statistics import expected_calibration_error


def test_by_hand() -> None:
    # two bins: (0, 0.5] holds 0.4 and 0.5, one right; (0.5, 1] holds 0.6, 0.8 and 1.0, one right
    found = expected_calibration_error([0.5, 0.6, 0.4, 0.8, 1.0], [True, False, False, True, False], num_bins=2)
    assert found.value == pytest.approx(2 / 5 * abs(0.5 - 0.45) + 3 / 5 * abs(1 / 3 - 0.8))
    assert found.num_samples.tolist() == [2, 3]
    assert found.mean_confidence == pytest.approx([0.45, 0.8])
    assert found.accuracy == pytest.approx([0.5, 1 / 3])
    assert found.edges == pytest.approx([0, 0.5, 1])


def test_bins_are_those_of_the_paper() -> None:
    """Right-closed: 1/15 belongs to the first of 15, the next number above to the second; 0 is not lost."""
    found = expected_calibration_error([0.0, 1 / 15, np.nextafter(1 / 15, 1), 1.0], [True] * 4)
    assert found.num_samples[[0, 1, 14]].tolist() == [2, 1, 1]
    assert math.isnan(found.accuracy[5])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_what_holds_for_any_data(samples: list[tuple[float, bool]], num_bins: int) -> None:
    sure, right = np.array([pair[0] for pair in samples]), np.array([pair[1] for pair in samples])
    found = expected_calibration_error(sure, right, num_bins, num_resamples=200)
    assert 0 <= found.value <= 1
    assert 0 <= found.low <= found.high
    assert found.high > 0.01  # sixty images prove nothing to a point
    assert found.value >= abs(right.mean() - sure.mean()) - 1e-12  # as with a single bin
    assert found.num_samples.sum() == len(samples)
    order = np.random.default_rng(0).permutation(len(samples))
    again = expected_calibration_error(sure[order], right[order], num_bins, num_resamples=200)
    assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high), abs=1e-9)


def test_noise_is_not_taken_for_error() -> None:
    generator = np.random.default_rng(0)
    sure = generator.beta(5, 1.2, 600)
    calibrated = expected_calibration_error(sure, generator.random(600) < sure)
    assert calibrated.value > 0.02
    assert calibrated.low == 0
    assert calibrated.value_if_calibrated == pytest.approx(calibrated.value, abs=0.02)
    overconfident = expected_calibration_error(sure, generator.random(600) < sure - 0.2)
    assert overconfident.low > 0.1
    assert overconfident.low < 0.2 < overconfident.high


def test_sure_and_right_is_no_proof() -> None:
    found = expected_calibration_error(np.full(120, 1.0), np.ones(120, bool))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(0.031, abs=0.001)  # Wilson's bound of no error in 120


def test_no_images_and_bad_arguments() -> None:
    nothing = expected_calibration_error([], [])
    assert all(math.isnan(value) for value in (nothing.value, nothing.low, nothing.high))
    assert nothing.num_samples.sum() == 0
    for sure, right in (([1.2], [True]), ([math.nan], [True]), ([0.5], [True, False])):
        with pytest.raises(ValueError, match=r"confidences"):
            expected_calibration_error(sure, right)
    for wrong in ({"num_bins": 0}, {"level": 1}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            expected_calibration_error([0.5], [True], **wrong)
