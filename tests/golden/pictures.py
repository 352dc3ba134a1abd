"""The golden pictures of `limla doctor`: one small JPEG of each kind that decoders treat apart, with its pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from limla.codecs import build_codec
from limla.codecs.jpeg import decode_jpeg
from limla.doctor.encoders import bitstream_hashes, is_learned
from limla.doctor.records import RECORDED, SOURCE
from limla.files import write_bytes, write_json
from limla.registry import CODECS
from limla.types import Image

_ORIENTATION = 0x0112
KINDS: dict[str, dict[str, Any]] = {
    "420": {"subsampling": "4:2:0", "quality": 75},
    "422": {"subsampling": "4:2:2", "quality": 75},
    "444": {"subsampling": "4:4:4", "quality": 90},
    "exif": {"subsampling": "4:2:0", "quality": 75},
    "gray": {"quality": 75},
    "low": {"subsampling": "4:2:0", "quality": 5},
    "odd": {"subsampling": "4:2:0", "quality": 75},
    "progressive": {"subsampling": "4:2:0", "quality": 75, "progressive": True},
}
"""Name → Pillow's options."""


def smooth_picture(height: int, width: int) -> Image:
    """Colour ramps under a gray texture, from whole numbers only; no side above 64."""
    rows, columns = np.mgrid[:height, :width]
    texture = (rows // 4 + columns // 4) % 2 * 24 + (rows ^ columns) % 8
    planes = (40 + 2 * rows, 190 - 2 * columns, 60 + rows + columns)
    return np.stack([plane + texture for plane in planes], axis=-1).astype(np.uint8)


def write_pictures(folder: Path) -> None:
    """Write the JPEGs, their pixels, the encoders' source and the hashes of every codec that is not learned."""
    for name, options in KINDS.items():
        image = smooth_picture(33, 47) if name == "odd" else smooth_picture(48, 64)
        data = _jpeg(image, name, options)
        pixels = decode_jpeg(data)
        with PIL.Image.open(io.BytesIO(data)) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), pixels), name
        write_bytes(folder / f"{name}.jpg", data)
        write_bytes(folder / f"{name}.png", _png(pixels))
    write_bytes(SOURCE, _png(smooth_picture(45, 61)))
    codecs = {name: build_codec(name) for name in CODECS.names() if not is_learned(name)}
    write_json(
        RECORDED,
        {
            name: {
                "version": codec.version(),
                "settings": codec.settings(),
                "sha256": bitstream_hashes(codec),
            }
            for name, codec in codecs.items()
        },
    )


def _jpeg(image: Image, name: str, options: dict[str, Any]) -> bytes:
    picture = PIL.Image.fromarray(image)
    file = io.BytesIO()
    if name == "gray":
        picture = picture.convert("L")
    if name == "exif":
        exif = PIL.Image.Exif()
        exif[_ORIENTATION] = 6
        options = options | {"exif": exif.tobytes()}
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()
