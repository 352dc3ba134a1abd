"""AVIF: AV1 key frames in HEIF, through Pillow, libavif and libaom."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import PIL.AvifImagePlugin
from PIL.AvifImagePlugin import AvifImageFile

from limla.codecs import pillow
from limla.codecs.avif_file import check_file
from limla.codecs.base import QualityScale, check_image
from limla.errors import SettingsError
from limla.types import Image

_SUBSAMPLINGS = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}
_SPEEDS = range(11)
_MAX_SIDE = 32768
_ONE_THREAD = threading.Lock()


class _Reader(AvifImageFile):
    """Pillow's reader with one thread: its only knob for that is the module's, as large as the machine by default."""

    def _open(self) -> None:
        plugin: Any = PIL.AvifImagePlugin
        # held while the header is read, which takes microseconds; the decoder keeps the number it was opened with
        with _ONE_THREAD:
            before, plugin.DEFAULT_MAX_THREADS = plugin.DEFAULT_MAX_THREADS, 1
            try:
                super()._open()
            finally:
                plugin.DEFAULT_MAX_THREADS = before


class AvifCodec:
    """AVIF of 8 bits, full range, one tile, one thread, tuned for SSIM as libavif was before 1.4.

    libaom's newer tuning for images ("iq") spends bits where people look, and its PSNR does not always rise with
    quality.

    Args:
        speed: libaom's, 0 (smallest files) to 10 (fastest).
        subsampling: of chroma: "420", "422" or "444".
    """

    name: ClassVar[str] = "avif"
    extension: ClassVar[str] = "avif"
    scale: ClassVar[QualityScale] = QualityScale("quality", 0, 100)

    def __init__(self, speed: int = 6, subsampling: str = "420") -> None:
        if speed not in _SPEEDS:
            raise SettingsError(f"AVIF speed {speed} is out of range: choose 0 to {_SPEEDS[-1]}")
        if subsampling not in _SUBSAMPLINGS:
            raise SettingsError(
                f"unknown chroma subsampling '{subsampling}'; known: {', '.join(_SUBSAMPLINGS)}"
            )
        pillow.check_installed("avif", self.name)
        self.speed = speed
        self.subsampling = subsampling

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 32768, at quality 0 to 100.

        Raises `SettingsError` for a quality out of range and an image too large for the format, `ValueError` for a
        shape or dtype that is no image.
        """
        self.scale.check(quality)
        check_image(image, "AVIF", _MAX_SIDE)
        return pillow.encode(
            image,
            "AVIF",
            quality=quality,
            codec="aom",
            speed=self.speed,
            subsampling=_SUBSAMPLINGS[self.subsampling],
            range="full",
            max_threads=1,
            tile_rows=0,
            tile_cols=0,
            autotiling=False,
            advanced={"tune": "ssim"},
        )

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode a file of this codec to (H, W, 3) uint8 RGB.

        Raises `DataError` for damaged or truncated data, for more than `MAX_PIXELS`, and for kinds of AVIF that this
        codec does not write: see `limla.codecs.avif_file`.
        """
        check_file(memoryview(data))
        return pillow.decode(data, "AVIF", _Reader)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs."""
        return {
            "speed": self.speed,
            "subsampling": self.subsampling,
            "encoder": "aom",
            "range": "full",
            "tiles": 1,
            "threads": 1,
            "tune": "ssim",
        }

    def version(self) -> str:
        """The libraries that encode."""
        encoder = next(
            (part for part in _codec_versions().split(", ") if part.startswith("aom")), "aom is missing"
        )
        return f"{pillow.version('libavif', 'avif')}, lib{encoder.replace(' [enc', '').replace(']:', ' ')}"


def _codec_versions() -> str:
    """libavif's list of its codecs: "dav1d [dec]:1.5.3, aom [enc]:3.14.1"."""
    plugin: Any = PIL.AvifImagePlugin
    return plugin._avif.codec_versions()
