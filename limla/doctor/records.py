"""The pictures and hashes that travel with the package; `tools/make_golden.py` alone writes them.

`golden/<name>.jpg` are small JPEGs of every kind that decoders treat apart, `<name>.png` the pixels that they must
become, `source.png` the picture that encoders are given, and `recorded.json` the SHA-256 of what they make of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from limla.types import Image

GOLDEN = Path(__file__).parent / "golden"
RECORDED = GOLDEN / "recorded.json"
SOURCE = GOLDEN / "source.png"


def golden_files() -> list[Path]:
    """The JPEGs, by name."""
    return sorted(GOLDEN.glob("*.jpg"))


def pixels_of(path: Path) -> Image:
    """The recorded pixels of a golden JPEG, or of the source: (H, W, 3) uint8."""
    with PIL.Image.open(path.with_suffix(".png"), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGB"))


def recorded_bitstreams() -> dict[str, dict[str, Any]]:
    """Codec name → {"version", "settings", "sha256": quality as text → hash}."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))
