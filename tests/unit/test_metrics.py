"""Metrics: cases made by hand, properties, equality with scikit-learn and scikit-image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as their_confusion

from limla.metrics import (
    attack_success_rate,
    classification_scores,
    confusion_matrix,
    flip_rate,
    macro_scores,
    psnr_db,
    rate_bpp,
    robust_accuracy,
    ssim,
    targeted_success_rate,
)
from limla.types import Image


def test_rate_by_hand() -> None:
    assert rate_bpp(1000, 10, 80) == 10.0
    assert rate_bpp(1, 1, 1) == 8.0
    assert rate_bpp(0, 4, 4) == 0.0


@pytest.mark.parametrize("wrong", [(-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_impossible_rates_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no rate"):
        rate_bpp(*wrong)


def test_psnr_by_hand() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr_db(black, black) == math.inf
    assert psnr_db(black, np.full_like(black, 255)) == 0.0
    # every sample off by one: MSE 1
    assert psnr_db(black, black + np.uint8(1)) == pytest.approx(10 * math.log10(255**2))
    # one sample of the 48 off by ten: MSE 100 / 48, whichever channel it is in
    for channel in range(3):
        other = black.copy()
        other[1, 2, channel] = 10
        assert psnr_db(black, other) == pytest.approx(10 * math.log10(255**2 * 48 / 100))
        assert psnr_db(other, black) == psnr_db(black, other)


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (301, 7), (130, 170), (700, 40), (1200, 1800)])
def test_psnr_is_scikit_images(make_photo: Callable[..., Image], shape: tuple[int, int]) -> None:
    one, other = make_photo(*shape, 0), make_photo(*shape, 1)
    if not np.array_equal(one, other):
        assert psnr_db(one, other) == pytest.approx(
            peak_signal_noise_ratio(one, other, data_range=255), rel=1e-12
        )


@pytest.mark.parametrize("shape", [(11, 11), (11, 400), (400, 12), (130, 170), (777, 40), (1200, 1800)])
def test_ssim_is_scikit_images_on_luma(make_photo: Callable[..., Image], shape: tuple[int, int]) -> None:
    one = make_photo(*shape, 0)
    noise = np.random.default_rng(0).integers(-20, 21, one.shape)
    other = np.clip(one.astype(int) + noise, 0, 255).astype(np.uint8)

    def luma(image: Image) -> Any:
        return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])

    expected = structural_similarity(
        luma(one),
        luma(other),
        data_range=255.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(one, other) == pytest.approx(expected, abs=2e-5)
    assert ssim(one, other) < 0.999


def test_ssim_by_hand(make_photo: Callable[..., Image]) -> None:
    image = make_photo(40, 50, 0)
    assert ssim(image, image) == pytest.approx(1.0)
    assert ssim(image, 255 - image) < 0
    # flat images: only the luminance term is left, (2ab + C1) / (a² + b² + C1) with C1 = (0.01 · 255)²
    a, b = np.full((20, 20, 3), 100, np.uint8), np.full((20, 20, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), abs=1e-4)


@pytest.mark.parametrize("shape", [(10, 100), (100, 10), (1, 1)])
def test_ssim_of_images_below_its_window_is_nan(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert math.isnan(ssim(image, image))


@pytest.mark.parametrize("metric", [psnr_db, ssim])
def test_images_of_two_shapes_are_refused(metric: Callable[..., float]) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    for other in (image[:19], image[..., 0], image[..., :2]):
        with pytest.raises(ValueError, match="one shape"):
            metric(image, other)


def test_scores_by_hand() -> None:
    # rows true, columns predicted; class 2 is never predicted
    confusion = np.array([[3, 1, 0], [0, 2, 0], [1, 1, 0]])
    scores = classification_scores(confusion)
    assert scores.accuracy == 5 / 8
    assert scores.precision_macro == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    assert scores.recall_macro == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert scores.f1_macro == pytest.approx((3 / 4 + 2 / 3 + 0) / 3)


def test_classes_that_do_not_occur_are_left_out() -> None:
    assert classification_scores(np.diag([4, 0, 2])).f1_macro == 1.0
    assert classification_scores(np.array([[0, 3], [0, 0]])).recall_macro == 0.0


pairs = st.integers(2, 8).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60),
    )
)


@settings(deadline=None)
@given(pairs)
def test_scores_are_scikit_learns(case: tuple[int, list[tuple[int, int]]]) -> None:
    num_classes, found = case
    labels, predictions = (np.array(column, np.int64) for column in zip(*found, strict=True))
    confusion = confusion_matrix(labels, predictions, num_classes)
    assert np.array_equal(confusion, their_confusion(labels, predictions, labels=range(num_classes)))
    scores = classification_scores(confusion)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predictions))
    assert scores.precision_macro == pytest.approx(precision)
    assert scores.recall_macro == pytest.approx(recall)
    assert scores.f1_macro == pytest.approx(f1)


@settings(deadline=None)
@given(st.lists(pairs, min_size=1, max_size=5))
def test_many_matrices_at_once_are_each_alone(cases: list[tuple[int, list[tuple[int, int]]]]) -> None:
    matrices = np.stack(
        [confusion_matrix(*(np.array(c, np.int64) for c in zip(*found, strict=True)), 8) for _, found in cases]
    )
    together = macro_scores(matrices)
    for number, matrix in enumerate(matrices):
        alone = macro_scores(matrix[np.newaxis])
        assert [float(score[number]) for score in together] == [float(score[0]) for score in alone]
        assert [float(score[0]) for score in alone] == pytest.approx(astuple(classification_scores(matrix)))


def test_a_confusion_matrix_refuses_strange_classes_and_scores_need_samples() -> None:
    for labels, predictions in (([0], [2]), ([2], [0]), ([-1], [0]), ([0], [-1])):
        with pytest.raises(ValueError, match="class indices must lie in 0 … 1"):
            confusion_matrix(np.array(labels), np.array(predictions), 2)
    empty = confusion_matrix(np.array([], np.int64), np.array([], np.int64), 3)
    assert empty.tolist() == [[0] * 3] * 3
    with pytest.raises(ValueError, match="no samples"):
        classification_scores(empty)


def test_robust_accuracy_and_success_rate_by_hand() -> None:
    before = np.array([True, True, True, False, False])
    after = np.array([True, False, False, False, True])
    assert robust_accuracy(after) == 2 / 5
    # three were right before, two of them are wrong now; the one that became right does not count
    assert attack_success_rate(before, after) == 2 / 3
    assert math.isnan(attack_success_rate(np.zeros(3, bool), np.ones(3, bool)))
    with pytest.raises(ValueError, match="no samples"):
        robust_accuracy(np.array([], bool))
    with pytest.raises(ValueError, match="not paired"):
        attack_success_rate(before, after[:-1])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_an_attack_that_never_mends_relates_the_two_rates(found: list[tuple[bool, bool]]) -> None:
    before = np.array([one for one, _ in found])
    after = before & np.array([other for _, other in found])
    rate = attack_success_rate(before, after)
    if before.any():
        assert 0 <= rate <= 1
        assert robust_accuracy(after) == pytest.approx(before.mean() * (1 - rate))
    else:
        assert math.isnan(rate)


def test_targeted_success_by_hand() -> None:
    # hit; flipped elsewhere; still right; wrong before; was the target before; the target is the label
    labels = np.array([0, 0, 0, 1, 1, 2])
    targets = np.array([1, 1, 1, 2, 2, 2])
    before = np.array([0, 0, 0, 0, 2, 2])
    after = np.array([1, 2, 0, 2, 2, 2])
    # three were right before and aimed elsewhere; one of them is where the attack wanted it
    assert targeted_success_rate(labels == before, labels, targets, after) == 1 / 3
    assert attack_success_rate(labels == before, labels == after) == 2 / 4
    nothing = np.zeros(6, bool)
    assert math.isnan(targeted_success_rate(nothing, labels, targets, after))
    assert math.isnan(targeted_success_rate(~nothing, labels, labels, labels))
    with pytest.raises(ValueError, match="not paired"):
        targeted_success_rate(nothing, labels, targets[:-1], after)


def test_flips_are_counted_right_or_wrong() -> None:
    before, after = np.array([0, 1, 2, 2]), np.array([0, 2, 1, 2])
    assert flip_rate(before, after) == 0.5
    assert flip_rate(before, before) == 0.0
    assert flip_rate(np.stack([before, before]), np.stack([after, before])) == 0.25
    with pytest.raises(ValueError, match="not paired"):
        flip_rate(before, after[1:])
    with pytest.raises(ValueError, match="no samples"):
        flip_rate(before[:0], after[:0])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=60))
def test_targeted_success_is_part_of_success(found: list[tuple[int, int, int, int]]) -> None:
    """Where no target is the label, whoever reaches the target was flipped."""
    labels, shift, before, after = (np.array(column) for column in zip(*found, strict=True))
    targets = (labels + 1 + shift % 3) % 4
    correct = labels == before
    targeted, untargeted = (
        targeted_success_rate(correct, labels, targets, after),
        attack_success_rate(correct, labels == after),
    )
    assert math.isnan(targeted) == math.isnan(untargeted) == (not correct.any())
    assert not targeted > untargeted
