"""What the sources went through before, per class: a compression history that tells the label can fake a result."""

from __future__ import annotations

import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.manifest import SPLITS
from limla.packing.folder import Packed

MIN_ASSOCIATION = 0.1
"""Cramér's V from which a warning is given: Cohen's "small" effect."""
MAX_P_VALUE = 0.01
QUALITY_BIN = 5
_RARE = 5
"""Values seen less often are counted together: a chi-square test needs that many."""
_MARK_BYTES = 16
"""Of a file's SHA-256, by which copies are found."""
_SHOWN = 6
"""Classes named in a warning."""


class Audit:
    """Counts while packing; memory grows with the number of classes, and by 21 bytes per image for duplicates."""

    def __init__(self, class_names: tuple[str, ...]) -> None:
        self._class_names = class_names
        num = len(class_names)
        self._quality: list[Counter[int]] = [Counter() for _ in range(num)]
        self._subsampling: list[Counter[str]] = [Counter() for _ in range(num)]
        self._formats: list[Counter[str]] = [Counter() for _ in range(num)]
        self._converted: list[Counter[str]] = [Counter() for _ in range(num)]
        self._not_standard = 0
        self._notes: Counter[str] = Counter()
        self._marks, self._labels, self._splits = bytearray(), array("I"), array("B")

    def add(self, split: str, label: int, picture: Packed) -> None:
        """Count one packed picture."""
        self._formats[label][picture.source_format] += 1
        self._converted[label].update(picture.converted)
        self._notes.update(picture.notes)
        if picture.jpeg:
            self._quality[label][picture.jpeg.quality] += 1
            self._subsampling[label][picture.jpeg.subsampling] += 1
            self._not_standard += not picture.jpeg.standard
        self._marks += bytes.fromhex(picture.source_sha256)[:_MARK_BYTES]
        self._labels.append(label)
        self._splits.append(SPLITS.index(split))

    def summary(self) -> dict[str, Any]:
        """For the manifest: counts over all and per class, associations with the label, and the warnings."""
        associations = self._associations()
        duplicates = self._duplicates()
        return {
            "thresholds": {"cramers_v": MIN_ASSOCIATION, "p_value": MAX_P_VALUE},
            "association_with_class": associations,
            "all": self._counts(range(len(self._class_names))),
            "classes": {name: self._counts([label]) for label, name in enumerate(self._class_names)},
            "tables_not_standard": self._not_standard,
            "notes": dict(self._notes),
            "duplicates": duplicates,
            "warnings": [*self._association_warnings(associations), *_duplicate_warnings(duplicates)],
        }

    def _duplicates(self) -> dict[str, int]:
        """Images that are another one's copy; how many of them lie in another split, or class, than its first one."""
        columns = np.frombuffer(self._marks, np.uint64).reshape(len(self._labels), -1).T
        order = np.lexsort(columns)  # stable: of equal files, the first one added stays the first
        is_copy = np.zeros(len(order), bool)
        is_copy[1:] = (columns[:, order[1:]] == columns[:, order[:-1]]).all(axis=0)
        first = order[np.maximum.accumulate(np.where(is_copy, 0, np.arange(len(order))))]
        found = {"images": is_copy}
        for name, values in (("across_splits", self._splits), ("across_classes", self._labels)):
            column = np.frombuffer(values, f"u{values.itemsize}")
            found[name] = column[order] != column[first]
        return {name: int(which.sum()) for name, which in found.items()}

    def _counts(self, labels: Iterable[int]) -> dict[str, Any]:
        chosen = list(labels)
        quality = _sum(self._quality, chosen)
        return {
            "formats": _plain(_sum(self._formats, chosen)),
            "jpeg_quality_median": _median(quality),
            "jpeg_quality": _plain(quality),
            "jpeg_subsampling": _plain(_sum(self._subsampling, chosen)),
            "converted": _plain(_sum(self._converted, chosen)),
        }

    def _associations(self) -> dict[str, dict[str, float]]:
        """Of each kind of history with the class: Cramér's V and its chi-square p-value."""
        tables = {
            "JPEG quality": [_binned(quality) for quality in self._quality],
            "chroma subsampling": self._subsampling,
            "file format": self._formats,
        }
        # scipy takes half a second to import, and those who pack shards on a cluster do not need it
        from limla.statistics import cramers_v

        found: dict[str, dict[str, float]] = {}
        for name, counters in tables.items():
            strength, p_value = cramers_v(_contingency(counters))
            found[name] = {"cramers_v": round(strength, 4), "p_value": float(f"{p_value:.3g}")}
        return found

    def _association_warnings(self, associations: dict[str, dict[str, float]]) -> list[str]:
        describe: dict[str, Callable[[int], str | None]] = {
            "JPEG quality": lambda label: _text(_median(self._quality[label]), "median "),
            "chroma subsampling": lambda label: _most_common(self._subsampling[label]),
            "file format": lambda label: _most_common(self._formats[label]),
        }
        warnings: list[str] = []
        for name, values in associations.items():
            if values["cramers_v"] < MIN_ASSOCIATION or values["p_value"] >= MAX_P_VALUE:
                continue
            shown = [
                f"{class_name} {text}"
                for label, class_name in enumerate(self._class_names)
                if (text := describe[name](label)) is not None
            ]
            more = f" and {len(shown) - _SHOWN} more classes" if len(shown) > _SHOWN else ""
            warnings.append(
                f"{name} goes with the class (Cramér's V {values['cramers_v']:.2f}, p {values['p_value']:.2g}; "
                f"warned from V {MIN_ASSOCIATION} with p < {MAX_P_VALUE}): {', '.join(shown[:_SHOWN])}{more}; a model "
                "can then tell classes by how they were saved, which alone can fake a result: balance the sources"
            )
        return warnings


def _duplicate_warnings(duplicates: dict[str, int]) -> list[str]:
    warnings: list[str] = []
    if duplicates["across_splits"]:
        warnings.append(
            f"byte for byte in another split too: {duplicates['across_splits']} of the images, so that "
            "test or validation images may be trained on; remove the copies"
        )
    if duplicates["across_classes"]:
        warnings.append(
            f"byte for byte in another class too: {duplicates['across_classes']} of the images, so that "
            "one of the labels must be wrong"
        )
    return warnings


def _binned(quality: Counter[int]) -> Counter[str]:
    bins: Counter[str] = Counter()
    for value, count in quality.items():
        low = (value - 1) // QUALITY_BIN * QUALITY_BIN + 1
        bins[f"{low}-{low + QUALITY_BIN - 1}"] += count
    return bins


def _contingency(counters: Sequence[Counter[str]]) -> npt.NDArray[np.int64]:
    """(classes, values): values seen less than `_RARE` times are one column."""
    total = _sum(counters, range(len(counters)))
    common = sorted(value for value, count in total.items() if count >= _RARE)
    rows = [
        [*(counter[value] for value in common), sum(counter.values()) - sum(counter[value] for value in common)]
        for counter in counters
    ]
    return np.array(rows, dtype=np.int64)


def _sum(counters: Sequence[Counter[Any]], labels: Iterable[int]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for label in labels:
        total.update(counters[label])
    return total


def _plain(counter: Counter[Any]) -> dict[str, int]:
    return {str(value): counter[value] for value in sorted(counter)}


def _median(counter: Counter[int]) -> float | None:
    return float(statistics.median(counter.elements())) if counter else None


def _text(value: float | None, before: str) -> str | None:
    return None if value is None else f"{before}{value:g}"


def _most_common(counter: Counter[str]) -> str | None:
    if not counter:
        return None
    value = min(counter, key=lambda name: (-counter[name], name))
    return f"{value} {100 * counter[value] / counter.total():.0f}%"
