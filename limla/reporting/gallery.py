"""The flip gallery: images whose prediction flips first, what the model saw before and after side by side."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from limla.analysis.flips import FlipRow
from limla.analysis.gallery import FlipPictures, flip_pictures
from limla.errors import LimlaError
from limla.reporting.sections import Section
from limla.types import Image

MAX_SERIES, MAX_FLIPS = 4, 6
_MAX_SIDE = 224


@dataclass(frozen=True)
class Shown:
    """One picture as a data URI, and what the model said: "rose 87%", right or not."""

    uri: str
    alt: str
    verdict: str


@dataclass(frozen=True)
class Flip:
    """One image: before, after (None where it cannot be shown), and its key and class."""

    key: str
    class_name: str
    before: Shown
    after: Shown | None
    quality: str


@dataclass(frozen=True)
class Series:
    """The first flips of one subject and change."""

    title: str
    flips: tuple[Flip, ...]


def gallery(section: Section, rows: Sequence[FlipRow]) -> tuple[list[Series], str]:
    """The first flips of the first few subjects with their pictures, and why there are none ("" where there are).

    Pictures come from the shards; the report goes on without them where these cannot be read.
    """
    if not rows:
        return [], ""
    if section.data is None:
        return (
            [],
            "The pictures of flips are in the shards: give the dataset's folder (--data-dir) to see them.",
        )
    series: dict[tuple[str, str, str], list[FlipRow]] = defaultdict(list)
    for row in rows:
        series[row.subject, row.change, row.codec].append(row)
    chosen = [found[:MAX_FLIPS] for found in _varied(series)[:MAX_SERIES]]
    try:
        pictures = flip_pictures([row for found in chosen for row in found], section.data)
    except LimlaError as error:
        return [], f"The pictures of flips could not be read from the shards: {error}"
    shown = {(id(item.row)): item for item in pictures}
    found = [
        Series(_title(part[0]), tuple(_flip(section, shown[id(row)]) for row in part if id(row) in shown))
        for part in chosen
    ]
    return [item for item in found if item.flips], ""


def _varied(series: dict[tuple[str, str, str], list[FlipRow]]) -> list[list[FlipRow]]:
    """Falling quality and defences in turn, so that both are seen where both were evaluated."""
    kinds = [[rows for key, rows in series.items() if key[1] == kind] for kind in ("quality", "defence")]
    longest = max(map(len, kinds))
    return [part[place] for place in range(longest) for part in kinds if place < len(part)]


def _title(row: FlipRow) -> str:
    what = "falling quality of" if row.change == "quality" else "in front of the model:"
    return f"{row.subject}, {what} {row.codec}"


def _flip(section: Section, pictures: FlipPictures) -> Flip:
    row = pictures.row
    name = section.class_name
    quality = f"{row.codec} q{row.quality}"
    before = _shown(
        pictures.before,
        f"{row.key}: before",
        name(row.prediction_before),
        row.confidence_before,
        row.prediction_before == row.label,
    )
    after = None
    if pictures.after is not None:
        after = _shown(
            pictures.after,
            f"{row.key}: {quality}",
            name(row.prediction),
            row.confidence,
            row.prediction == row.label,
        )
    return Flip(row.key, name(row.label), before, after, quality)


def _shown(image: Image, alt: str, predicted: str, confidence: float, is_right: bool) -> Shown:
    verdict = f"{'✓' if is_right else '✗'} {predicted} {100 * confidence:.0f}%"
    return Shown(f"data:image/png;base64,{base64.b64encode(_png(image)).decode('ascii')}", alt, verdict)


def _png(image: Image) -> bytes:
    """As PNG, so that the codec's traces stay; of an image larger than the page shows, the centre."""
    height, width = (min(side, _MAX_SIDE) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    buffer = io.BytesIO()
    cut = np.ascontiguousarray(image[top : top + height, left : left + width])
    PillowImage.fromarray(cut).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
