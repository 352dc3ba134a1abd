"""The strip of sample images: what the model saw, and what the attack added.

Evaluation writes, per cell, the model's inputs of a few images as PNG files in `samples/<cell_id>` and an
`index.json` that says of each file its sample key and what the model predicted. Equal keys under the cells of one
subject are the same image. A folder without an index has its files' names in the place of keys.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from limla.analysis.encodings import Variant
from limla.analysis.subjects import Attack, Subject
from limla.errors import DataError
from limla.reporting.sections import Section
from limla.types import Image

SAMPLES = "samples"
INDEX = "index.json"
MAX_KEYS = 6
MAX_SIDE = 160
MAX_TOTAL_BYTES = 5_000_000
MAGNIFICATION = 10
_MAX_VARIANTS, _MAX_ATTACKS = 8, 2


@dataclass(frozen=True)
class Picture:
    """One image of the strip: a data URI, what it shows, and the model's verdict ("✓ rose 87%") or ""."""

    uri: str
    alt: str
    verdict: str


@dataclass(frozen=True)
class Strip:
    """Rows of sample images under column headings; `subject` is the model whose inputs they are."""

    subject: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]
    side: int
    cropped: bool

    @property
    def has_verdicts(self) -> bool:
        """True when evaluation recorded what the model said about the pictures."""
        return any(picture.verdict for _, pictures in self.rows for picture in pictures if picture)


@dataclass(frozen=True)
class _Sample:
    """One PNG file of a cell and the model's verdict on it, "" where that is not known."""

    path: Path
    verdict: str


_Samples = Mapping[str, _Sample]
"""The pictures of one cell by sample key."""


@dataclass(frozen=True)
class _Column:
    heading: str
    samples: _Samples
    before: _Samples | None = None
    """Set for a perturbation: the column shows `samples` minus `before`, magnified."""


def sample_strip(section: Section, results_dir: Path) -> Strip | None:
    """The strip of the first subject that has samples; None when evaluation left none.

    Raises `DataError` for a file that is no PNG.
    """
    for subject in section.subjects:
        columns = _columns(section, subject, results_dir / SAMPLES)
        keys = {key for column in columns for key in column.samples}
        # keys that most columns have come first, so that the strip has few holes
        ordered = sorted(keys, key=lambda key: (-sum(key in column.samples for column in columns), key))
        if ordered:
            return _strip(subject, columns, ordered[:MAX_KEYS])
    return None


def _columns(section: Section, subject: Subject, folder: Path) -> list[_Column]:
    found: list[_Column] = []
    clean = section.clean
    # the originals first, then falling quality; of many qualities an even choice with both ends
    variants = _even_choice(section.variants[::-1], _MAX_VARIANTS)
    for variant in variants if clean else ():
        assert clean is not None
        samples = _samples(section, subject, variant, clean, folder)
        if samples:
            found.append(_Column(section.variant_label(variant), samples))
    attacks = [attack for attack in section.attacks if not attack.is_none][-_MAX_ATTACKS:]
    for attack in attacks:
        for variant in section.variants[::-1]:
            samples = _samples(section, subject, variant, attack, folder)
            if not samples:
                continue
            label = f"{section.variant_label(variant)}, {attack.label}"
            found.append(_Column(label, samples))
            before = _samples(section, subject, variant, clean, folder) if clean else {}
            if before:
                found.append(_Column(f"change ×{MAGNIFICATION}", samples, before))
            break
    return found


def _even_choice(variants: Sequence[Variant], number: int) -> list[Variant]:
    if len(variants) <= number:
        return list(variants)
    places = np.unique(np.linspace(0, len(variants) - 1, number).round().astype(int))
    return [variants[place] for place in places]


def _samples(section: Section, subject: Subject, variant: Variant, attack: Attack, folder: Path) -> _Samples:
    """The pictures of the first cell that has any; empty where none has."""
    for cell in section.cells.get((subject, variant, attack), ()):
        found = _read_samples(section, folder / cell.cell_id)
        if found:
            return found
    return {}


def _read_samples(section: Section, folder: Path) -> dict[str, _Sample]:
    """The pictures that are there, by the keys of the folder's `index.json`."""
    path = folder / INDEX
    if not path.exists():
        return {picture.stem: _Sample(picture, "") for picture in sorted(folder.glob("*.png"))}
    found: dict[str, _Sample] = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8"))["pictures"]:
            file = str(entry["file"])
            if Path(file).name != file:
                raise ValueError(f"'{file}' is no file name")
            name = section.class_name(int(entry["prediction"]))
            mark = "✓" if entry["prediction"] == entry["label"] else "✗"
            verdict = f"{mark} {name} {100 * float(entry['confidence']):.0f}%"
            if (folder / file).exists():
                found[str(entry["key"])] = _Sample(folder / file, verdict)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an index of pictures ({error}); remove the folder") from error
    return found


def _strip(subject: Subject, columns: Sequence[_Column], keys: Sequence[str]) -> Strip:
    rows: list[tuple[str, tuple[Picture | None, ...]]] = []
    total = side = 0
    cropped = False
    for key in keys:
        pictures: list[Picture | None] = []
        num_bytes = 0
        for column in columns:
            image = _image(column, key)
            if image is None:
                pictures.append(None)
                continue
            shown = _centre(image)
            cropped |= shown.shape != image.shape
            side = max(side, *shown.shape[:2])
            data = _png(shown)
            num_bytes += len(data)
            uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
            verdict = "" if column.before is not None else column.samples[key].verdict
            pictures.append(Picture(uri, f"{key}: {column.heading}", verdict))
        if rows and total + num_bytes > MAX_TOTAL_BYTES:
            break
        total += num_bytes
        rows.append((key, tuple(pictures)))
    return Strip(subject.label, tuple(column.heading for column in columns), tuple(rows), side, cropped)


def _image(column: _Column, key: str) -> Image | None:
    if key not in column.samples or (column.before is not None and key not in column.before):
        return None
    shown = _read(column.samples[key].path)
    if column.before is None:
        return shown
    before = _read(column.before[key].path)
    return None if before.shape != shown.shape else magnified_difference(before, shown)


def magnified_difference(before: Image, after: Image) -> Image:
    """`after` - `before`, times ten, around mid gray (128), clipped to 0 … 255; (H, W, 3) uint8."""
    difference = after.astype(np.int16) - before.astype(np.int16)
    return np.clip(128 + MAGNIFICATION * difference, 0, 255).astype(np.uint8)


def _read(path: Path) -> Image:
    try:
        with PillowImage.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable PNG ({error}); remove it and report again") from error


def _centre(image: Image) -> Image:
    """The centre of at most MAX_SIDE × MAX_SIDE pixels: cut, not scaled, so that artefacts stay as they are."""
    height, width = (min(side, MAX_SIDE) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
