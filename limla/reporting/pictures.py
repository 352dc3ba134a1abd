"""The strip of sample images: what the model saw, and what the attack added.

Evaluation writes, per cell, the model's inputs of a few images as `samples/<cell_id>/<key>.png` ('/' in a key
becomes '__') and an `index.json` with its predictions. The same file names under the cells of one subject
are the same images.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from limla.errors import DataError
from limla.reporting.encodings import Variant
from limla.reporting.sections import Attack, Section, Subject
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
class _Column:
    heading: str
    folder: Path
    clean_folder: Path | None = None
    """Set for a perturbation: the column shows `folder` minus `clean_folder`, magnified."""


def sample_strip(section: Section, results_dir: Path) -> Strip | None:
    """The strip of the first subject that has samples; None when evaluation left none.

    Raises `DataError` for a file that is no PNG.
    """
    for subject in section.subjects:
        columns = _columns(section, subject, results_dir / SAMPLES)
        names = sorted({path.name for column in columns for path in column.folder.glob("*.png")})
        # keys that most columns have come first, so that the strip has few holes
        names.sort(key=lambda name: (-sum((column.folder / name).exists() for column in columns), name))
        if names:
            verdicts = _verdicts(section, {column.folder for column in columns})
            return _strip(subject, columns, names[:MAX_KEYS], verdicts)
    return None


def _columns(section: Section, subject: Subject, folder: Path) -> list[_Column]:
    found: list[_Column] = []
    clean = section.clean
    # the originals first, then falling quality; of many qualities an even choice with both ends
    variants = _even_choice(section.variants[::-1], _MAX_VARIANTS)
    for variant in variants if clean else ():
        assert clean is not None
        place = _folder(section, subject, variant, clean, folder)
        if place is not None:
            found.append(_Column(section.variant_label(variant), place))
    attacks = [attack for attack in section.attacks if not attack.is_none][-_MAX_ATTACKS:]
    for attack in attacks:
        for variant in section.variants[::-1]:
            place = _folder(section, subject, variant, attack, folder)
            if place is None:
                continue
            label = f"{section.variant_label(variant)}, {attack.label}"
            found.append(_Column(label, place))
            before = _folder(section, subject, variant, clean, folder) if clean else None
            if before is not None:
                found.append(_Column(f"change ×{MAGNIFICATION}", place, before))
            break
    return found


def _even_choice(variants: Sequence[Variant], number: int) -> list[Variant]:
    if len(variants) <= number:
        return list(variants)
    places = np.unique(np.linspace(0, len(variants) - 1, number).round().astype(int))
    return [variants[place] for place in places]


def _folder(section: Section, subject: Subject, variant: Variant, attack: Attack, folder: Path) -> Path | None:
    for cell in section.cells.get((subject, variant, attack), ()):
        if any((folder / cell.cell_id).glob("*.png")):
            return folder / cell.cell_id
    return None


def _verdicts(section: Section, folders: Iterable[Path]) -> dict[tuple[Path, str], str]:
    """(folder, file name) → what the model said, from the folders' `index.json`; none where it is absent."""
    found: dict[tuple[Path, str], str] = {}
    for folder in folders:
        path = folder / INDEX
        if not path.exists():
            continue
        try:
            for entry in json.loads(path.read_text(encoding="utf-8"))["pictures"]:
                name = section.class_name(int(entry["prediction"]))
                mark = "✓" if entry["prediction"] == entry["label"] else "✗"
                found[folder, str(entry["file"])] = f"{mark} {name} {100 * float(entry['confidence']):.0f}%"
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not an index of pictures ({error}); remove the folder") from error
    return found


def _strip(
    subject: Subject, columns: Sequence[_Column], names: Sequence[str], verdicts: dict[tuple[Path, str], str]
) -> Strip:
    rows: list[tuple[str, tuple[Picture | None, ...]]] = []
    total = side = 0
    cropped = False
    for name in names:
        key = name.removesuffix(".png").replace("__", "/")
        pictures: list[Picture | None] = []
        num_bytes = 0
        for column in columns:
            image = _image(column, name)
            if image is None:
                pictures.append(None)
                continue
            shown = _centre(image)
            cropped |= shown.shape != image.shape
            side = max(side, *shown.shape[:2])
            data = _png(shown)
            num_bytes += len(data)
            uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
            verdict = "" if column.clean_folder else verdicts.get((column.folder, name), "")
            pictures.append(Picture(uri, f"{key}: {column.heading}", verdict))
        if rows and total + num_bytes > MAX_TOTAL_BYTES:
            break
        total += num_bytes
        rows.append((key, tuple(pictures)))
    return Strip(subject.label, tuple(column.heading for column in columns), tuple(rows), side, cropped)


def _image(column: _Column, name: str) -> Image | None:
    shown = _read(column.folder / name)
    if shown is None or column.clean_folder is None:
        return shown
    before = _read(column.clean_folder / name)
    return None if before is None or before.shape != shown.shape else magnified_difference(before, shown)


def magnified_difference(before: Image, after: Image) -> Image:
    """`after` - `before`, times ten, around mid gray (128), clipped to 0 … 255; (H, W, 3) uint8."""
    difference = after.astype(np.int16) - before.astype(np.int16)
    return np.clip(128 + MAGNIFICATION * difference, 0, 255).astype(np.uint8)


def _read(path: Path) -> Image | None:
    if not path.exists():
        return None
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
