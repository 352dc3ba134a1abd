"""Rate, distortion and classification metrics, each defined once (no torch)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.types import Image

Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def rate_bpp(num_bytes: int, height: int, width: int) -> float:
    """Bits per pixel of an encoded image: 8 · num_bytes / (height · width), headers included."""
    if height < 1 or width < 1 or num_bytes < 0:
        raise ValueError(f"no rate for {num_bytes} bytes and {height}x{width} pixels")
    return 8 * num_bytes / (height * width)


def psnr_db(reference: Image, decoded: Image) -> float:
    """Peak signal-to-noise ratio in dB over all R, G and B samples of (H, W, 3) uint8 images.

    10 · log10(255² / MSE), the mean squared error taken over height, width and channels together;
    infinity for identical images.
    """
    _check_pair(reference, decoded)
    total = 0
    for start, end in _strips(0, *reference.shape[:2]):
        difference = np.subtract(reference[start:end], decoded[start:end], dtype=np.int32)
        total += int(np.sum(np.square(difference, out=difference), dtype=np.int64))
    return math.inf if total == 0 else 10 * math.log10(255**2 * reference.size / total)


def ssim(reference: Image, decoded: Image) -> float:
    """Structural similarity in [-1, 1] on the luma (ITU-R BT.601) of (H, W, 3) uint8 images.

    Wang et al., IEEE Trans. Image Processing 13(4), 2004: 11×11 Gaussian window, σ = 1.5, K1 = 0.01,
    K2 = 0.03, L = 255, through scikit-image. NaN when a side is shorter than the window.
    """
    _check_pair(reference, decoded)
    height, width = reference.shape[:2]
    if min(height, width) < _WINDOW:
        return math.nan
    return _mean_similarity(reference, decoded, _K1)


def ms_ssim(reference: Image, decoded: Image) -> float:
    """Multi-scale structural similarity in [0, 1] on the luma of (H, W, 3) uint8 images.

    Wang, Simoncelli & Bovik, Asilomar Conference on Signals, Systems and Computers, 2003: contrast and structure at
    five scales, luminance at the coarsest, each to the power of `MS_SSIM_WEIGHTS`; window and constants of `ssim`.
    Between scales means of 2 × 2 pixels (a last odd row or column is repeated). Where a scale's mean is negative,
    which has no such power, the result is 0. NaN when a side is shorter than 176 pixels: the window needs 11 at the
    coarsest scale.
    """
    _check_pair(reference, decoded)
    if min(reference.shape[:2]) < _WINDOW << (len(MS_SSIM_WEIGHTS) - 1):
        return math.nan
    one, other = _luma(reference), _luma(decoded)
    product = 1.0
    for weight in MS_SSIM_WEIGHTS[:-1]:
        product *= max(0.0, _mean_similarity(one, other, _NO_LUMINANCE)) ** weight
        one, other = _halved(one), _halved(other)
    return product * max(0.0, _mean_similarity(one, other, _K1)) ** MS_SSIM_WEIGHTS[-1]


MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, the finest first."""
_K1 = 0.01
_NO_LUMINANCE = 1e4
"""As K1 it makes the luminance term 1 within 1e-8, so that contrast and structure remain."""


def _mean_similarity(reference: npt.NDArray[Any], decoded: npt.NDArray[Any], k1: float) -> float:
    """Mean SSIM of two (H, W, 3) uint8 images or (H, W) float32 planes, sides of at least `_WINDOW`."""
    from skimage.metrics import structural_similarity

    height, width = reference.shape[:2]
    margin = _WINDOW // 2
    total = 0.0
    # the mean is over the positions where the whole window lies inside, so strips that overlap by it are exact
    for start, end in _strips(margin, height - margin, width):
        rows = slice(start - margin, end + margin)
        similarity: Any = structural_similarity(
            _luma(reference[rows]),
            _luma(decoded[rows]),
            data_range=255.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            K1=k1,
        )
        total += float(similarity) * (end - start)
    return total / (height - 2 * margin)


def _halved(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The means of 2 × 2 values of an (H, W) plane: half its sides, rounded up."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
    return (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / np.float32(4)


_WINDOW = 11
_STRIP_PIXELS = 1 << 20


def _strips(first: int, last: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut rows first … last - 1 into strips of about a megapixel: large images cost no more memory than that."""
    step = max(1, _STRIP_PIXELS // width)
    return ((start, min(start + step, last)) for start in range(first, last, step))


def _luma(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Of an (H, W, 3) image; an (H, W) plane is one already."""
    if image.ndim == 2:
        return image
    # not a matrix product: its last bits could depend on the number of BLAS threads
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    return (0.299 * red + 0.587 * green + 0.114 * blue).astype(np.float32, copy=False)


def _check_pair(reference: Image, decoded: Image) -> None:
    if reference.shape != decoded.shape or reference.ndim != 3 or reference.shape[2] != 3:
        raise ValueError(f"need two (H, W, 3) images of one shape, got {reference.shape} and {decoded.shape}")


def confusion_matrix(labels: Labels, predictions: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """(C, C) counts, rows = true class, columns = predicted class.

    A prediction outside 0 … C-1 (a model with more outputs than the data has classes) is an error.
    """
    if len(labels) and (
        labels.min() < 0 or predictions.min() < 0 or max(labels.max(), predictions.max()) >= num_classes
    ):
        raise ValueError(f"class indices must lie in 0 … {num_classes - 1}")
    flat = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class ClassificationScores:
    """Macro means are over the classes that occur among the labels or the predictions, as scikit-learn's.

    All lie in [0, 1]; a class never predicted has precision 0 (scikit-learn's `zero_division=0`).
    """

    accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float


def classification_scores(confusion: npt.NDArray[np.int64]) -> ClassificationScores:
    """Accuracy, macro precision, recall and F1 from a (C, C) confusion matrix with at least one sample.

    scikit-learn's `precision_recall_fscore_support(average="macro", zero_division=0)`, each cell of the matrix
    a sample weighted by its count. `macro_scores` is the same for many matrices at once.
    """
    from sklearn.metrics import precision_recall_fscore_support

    total = int(confusion.sum())
    if total == 0:
        raise ValueError("no samples: a confusion matrix is empty")
    labels, predictions = np.nonzero(confusion)
    never_predicted: Any = 0  # scikit-learn takes a number here, its type hints only text
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels,
        predictions,
        sample_weight=confusion[labels, predictions],
        average="macro",
        zero_division=never_predicted,
    )
    return ClassificationScores(int(np.trace(confusion)) / total, float(precision), float(recall), float(f1))


def macro_scores(confusions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Accuracy and macro precision, recall, F1 of each of (B, C, C) confusion matrices, four (B,) arrays."""
    return marginal_scores(
        np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(axis=2), confusions.sum(axis=1)
    )


def marginal_scores(
    hits: npt.NDArray[np.int64], of_class: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], ...]:
    """`macro_scores` from the diagonals, row sums and column sums of the matrices, (B, C) each."""
    total = of_class.sum(axis=1)
    if (total == 0).any():
        raise ValueError("no samples: a confusion matrix is empty")
    present = (of_class + predicted) > 0
    precision = np.divide(hits, predicted, out=np.zeros(hits.shape), where=predicted > 0)
    recall = np.divide(hits, of_class, out=np.zeros(hits.shape), where=of_class > 0)
    f1 = np.divide(2 * hits, of_class + predicted, out=np.zeros(hits.shape), where=present)
    num_present = present.sum(axis=1)
    return (
        hits.sum(axis=1) / total,
        precision.sum(axis=1) / num_present,
        recall.sum(axis=1) / num_present,
        f1.sum(axis=1) / num_present,
    )


def robust_accuracy(correct_after: Flags) -> float:
    """Correct after the attack / all samples, in [0, 1]. Raises `ValueError` on no samples."""
    if len(correct_after) == 0:
        raise ValueError("no samples")
    return float(np.mean(correct_after))


def attack_success_rate(correct_before: Flags, correct_after: Flags) -> float:
    """Flipped / correct before the attack, in [0, 1]; NaN when nothing was correct before.

    The two (N,) arrays are paired by sample key. "Before" is the same condition without the attack: after the codec
    of the test images and, with a defence, behind the defence, so that what a codec alone breaks is not counted as the
    attack's success.
    """
    if correct_before.shape != correct_after.shape:
        raise ValueError(f"not paired: {correct_before.shape} samples before and {correct_after.shape} after")
    num_correct = int(np.sum(correct_before))
    return math.nan if num_correct == 0 else float(np.sum(correct_before & ~correct_after)) / num_correct


def targeted_success_rate(
    correct_before: Flags, labels: Labels, targets: Labels, predicted_after: Labels
) -> float:
    """TASR: predicted as the target after the attack / correct before, in [0, 1]; NaN when there is no such image.

    All four are (N,) arrays, paired by sample key; "before" as in `attack_success_rate`. Only images count that were
    correct before and whose target is not their own label, as Carlini & Wagner (IEEE S&P 2017) choose them. An image
    that was predicted as its target before was wrong before, so it is nobody's success; and TASR never exceeds ASR
    where no target is the label.
    """
    if not correct_before.shape == labels.shape == targets.shape == predicted_after.shape:
        raise ValueError(
            f"not paired: {correct_before.shape} samples before, {labels.shape} labels, {targets.shape} targets and "
            f"{predicted_after.shape} predictions after"
        )
    counted = correct_before & (labels != targets)
    num_counted = int(np.sum(counted))
    return math.nan if num_counted == 0 else float(np.sum(counted & (predicted_after == targets))) / num_counted


def flip_rate(predicted_before: npt.NDArray[Any], predicted_after: npt.NDArray[Any]) -> float:
    """Images whose prediction is another one / all, in [0, 1], right or wrong; paired by sample key.

    The disagreement of two conditions: equal accuracies can hide it. Of (S, N) predictions, the mean over the S seeds.
    Raises `ValueError` on no samples.
    """
    if predicted_before.shape != predicted_after.shape:
        raise ValueError(
            f"not paired: {predicted_before.shape} samples before and {predicted_after.shape} after"
        )
    if len(predicted_before) == 0:
        raise ValueError("no samples")
    return float(np.mean(predicted_before != predicted_after))
