"""The linear probe: multinomial logistic regression on standardised values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.errors import LimlaError

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
POOLED_SIDE = 4
"""Cells of `pooled` along each axis."""
STRENGTHS = tuple(10.0**power for power in range(-3, 5))
"""Values of scikit-learn's C that are tried, for values whose squares add up to about 1 in each image."""
MAX_NUMBERS = 200_000_000
"""The most values of all images of all splits together; 1.6 GB as they are computed with."""
_MAX_ITERATIONS = 5000
_TOLERANCE = 1e-6
_SMALLEST_EIGENVALUE = 1e-10


@dataclass(frozen=True)
class LinearProbe:
    """What a probe found.

    Attributes:
        predictions: (N,) classes of the test images.
        strength: the C that was chosen: lowest log loss on the val images, the smallest of equals.
        val_loss: that log loss, in nats.
    """

    predictions: Labels
    strength: float
    val_loss: float


def flat(array: npt.NDArray[Any]) -> Features:
    """(N, C, h, w) values as (N, C · h · w)."""
    return np.asarray(array, np.float32).reshape(len(array), -1)


def pooled(array: npt.NDArray[Any]) -> Features:
    """(N, C, h, w) values → means over a grid of 4 × 4 cells, (N, C · 16); fewer cells along a shorter side."""
    rows, columns = (np.array_split(np.arange(side), min(POOLED_SIDE, side)) for side in array.shape[2:])
    cells = [array[:, :, row[0] : row[-1] + 1, :] for row in rows]
    means = [
        cell[..., column[0] : column[-1] + 1].mean(axis=(2, 3), dtype=np.float32)
        for cell in cells
        for column in columns
    ]
    return np.concatenate(means, axis=1)


def linear_probe(
    train: tuple[Features, Labels],
    val: tuple[Features, Labels],
    test: Features,
    advance: Callable[[int], None] = lambda n: None,
) -> LinearProbe:
    """Fit on train, choose the regularisation on val, predict test.

    Values are standardised by the training images' mean and deviation and divided by the root of their number, so that
    one range of C suits inputs of any length. scikit-learn's `LogisticRegression` (L2, lbfgs, all classes at once).
    `advance(1)` is called after each of `STRENGTHS`.

    Raises `LimlaError` where a fit does not converge.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    (train_values, train_labels), (val_values, val_labels) = train, val
    parts = _shortened(*_standardised(train_values, val_values, test))
    model = LogisticRegression(max_iter=_MAX_ITERATIONS, tol=_TOLERANCE, warm_start=True)
    best: LinearProbe | None = None
    for strength in STRENGTHS:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(parts[0], train_labels)
            except ConvergenceWarning as error:
                raise LimlaError(
                    f"the linear probe did not converge in {_MAX_ITERATIONS} steps at C = {strength:g}"
                ) from error
        loss = _log_loss(log_loss, model, parts[1], val_labels)
        if best is None or loss < best.val_loss:
            best = LinearProbe(np.asarray(model.predict(parts[2]), np.int64), strength, loss)
        advance(1)
    assert best is not None
    return best


def _log_loss(log_loss: Any, model: Any, values: npt.NDArray[np.float64], labels: Labels) -> float:
    """Of the val images; of classes that no training image has, none is expected either."""
    known = np.isin(labels, model.classes_)
    if not known.any():
        raise LimlaError("no val image is of a class that training images have: pack more images")
    return float(log_loss(labels[known], model.predict_proba(values[known]), labels=model.classes_))


def _standardised(train: Features, *others: Features) -> list[npt.NDArray[np.float64]]:
    """Values that never change in training become 0."""
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, np.inf) * np.sqrt(train.shape[1])
    return [(values - mean) / scale for values in (train, *others)]


def _shortened(
    train: npt.NDArray[np.float64], *others: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.float64]]:
    """The same images with at most as many values as there are training images, where they had more.

    The weights of an L2 regularised fit are sums of training images (representer theorem: Kimeldorf & Wahba, 1971), so
    their coordinates in the space that those span give the same fit: an exact change of axes.
    """
    if train.shape[1] <= len(train):
        return [train, *others]
    eigenvalues, vectors = np.linalg.eigh(train @ train.T)
    is_kept = eigenvalues > max(_SMALLEST_EIGENVALUE * eigenvalues[-1], np.finfo(np.float64).tiny)
    if not is_kept.any():  # every training image is the same
        return [np.zeros((len(values), 1)) for values in (train, *others)]
    axes = train.T @ (vectors[:, is_kept] / np.sqrt(eigenvalues[is_kept]))
    return [values @ axes for values in (train, *others)]
