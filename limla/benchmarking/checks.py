"""Whether the contenders of a comparison did the same work, from the facts of their untimed passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.benchmarking.passes import Facts
from limla.errors import BenchmarkError

_CELLS = 8
_SIZE_TOLERANCE = 0.05
_PICTURE_TOLERANCE = 0.005
_PREDICTIONS_TOLERANCE = 0.1


class PictureFacts:
    """Sums up the batches a loader gives: enough to see another crop, channel order, scale, or image.

    Facts: `mean_picture`, the (3, 8, 8) mean of all images, and `image_means`, each image's mean, sorted.
    """

    def __init__(self) -> None:
        self._sum = np.zeros((3, _CELLS, _CELLS))
        self._means: list[float] = []

    def add(self, images: npt.NDArray[np.float32]) -> None:
        """Add (N, 3, H, W) float32 images in [0, 1]; sides of at least 8, what is over a multiple of 8 is left out."""
        number, channels, height, width = images.shape
        assert images.dtype == np.float32, images.dtype
        assert channels == 3, images.shape
        rows, columns = height // _CELLS, width // _CELLS
        whole = images[:, :, : rows * _CELLS, : columns * _CELLS]
        cells = whole.reshape(number, 3, _CELLS, rows, _CELLS, columns).mean(axis=(3, 5))
        self._sum += cells.sum(axis=0)
        self._means += cells.mean(axis=(1, 2, 3)).tolist()

    def facts(self) -> Facts:
        """See the class."""
        mean = self._sum / max(1, len(self._means))
        return {"mean_picture": mean.tolist(), "image_means": sorted(self._means)}


def same_pictures(reference: str) -> Callable[[Mapping[str, Facts]], dict[str, Any]]:
    """A check that all contenders with pictures loaded those of `reference`, within 0.005 on the [0, 1] scale.

    Resize filters differ between libraries; another crop or colour order differs by more.
    """

    def check(facts: Mapping[str, Facts]) -> dict[str, Any]:
        expected = facts[reference]
        found: dict[str, Any] = {}
        for name, one in facts.items():
            if name == reference or "mean_picture" not in one:
                continue
            differences = [
                float(np.abs(np.subtract(one[what], expected[what])).max())
                for what in ("mean_picture", "image_means")
            ]
            if max(differences) > _PICTURE_TOLERANCE:
                raise BenchmarkError(
                    f"'{name}' loaded other pictures than '{reference}': mean pictures differ by up to "
                    f"{differences[0]:.3f}, image means by up to {differences[1]:.3f} of 1"
                )
            found[name] = {"mean_picture_differs_by": differences[0], "image_means_differ_by": differences[1]}
        return {"reference": reference, "differences": found}

    return check


def same_files(reference: str) -> Callable[[Mapping[str, Facts]], dict[str, Any]]:
    """A check that all contenders made as many files as `reference` at each quality, as long within 5%."""

    def check(facts: Mapping[str, Facts]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, one in facts.items():
            for quality, (count, num_bytes) in one["files"].items():
                expected_count, expected_bytes = facts[reference]["files"][quality]
                ratio = num_bytes / expected_bytes
                if count != expected_count or abs(ratio - 1) > _SIZE_TOLERANCE:
                    raise BenchmarkError(
                        f"'{name}' made {count} images of {num_bytes} bytes at quality {quality} where '{reference}' "
                        f"made {expected_count} of {expected_bytes}: not the same work"
                    )
                found.setdefault(name, {})[quality] = ratio
        return {"reference": reference, "bytes_over_reference": found}

    return check


def same_attacks(ours: str, reference: str) -> Callable[[Mapping[str, Facts]], dict[str, Any]]:
    """A check that both attacked alike: the files each pass saved hold images and predictions per attack.

    Float rounding decides some signs of gradients, so single values differ. Predictions may for a tenth of the
    images, and for one image always: an untrained model has close calls.
    """

    def check(facts: Mapping[str, Facts]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part, path in facts[ours]["saved"].items():
            with np.load(Path(path)) as a, np.load(Path(facts[reference]["saved"][part])) as b:
                equal_values = float((np.abs(a["images"] - b["images"]) <= 1e-5).mean())
                equal_predictions = float((a["predictions"] == b["predictions"]).mean())
                num_flipped = int((a["predictions"] != b["predictions"]).sum())
                num_allowed = max(1, int(_PREDICTIONS_TOLERANCE * len(a["predictions"])))
            if num_flipped > num_allowed:
                raise BenchmarkError(
                    f"{part}: '{ours}' and '{reference}' agree on only {100 * equal_predictions:.0f}% of the "
                    "predictions"
                )
            found[part] = {
                "fraction_of_values_equal_within_1e-5": equal_values,
                "fraction_of_predictions_equal": equal_predictions,
            }
        return {"reference": reference, "parts": found}

    return check
