"""What the video codecs share: one picture, coded for itself, through an encoder and a decoder of PyAV (FFmpeg).

The file is a `.laff` container around the codec's own bitstream, which any player of that codec reads. The picture is
JPEG's: Y, Cb and Cr by JFIF (BT.601, full range), chroma halved both ways, from `limla.codecs.ycbcr` and back through
`limla.codecs.rgb`, so that codecs are compared, and not the scalers around them. Sides are made even, and as long as
the encoder wants them, by repeating the last column and row; the container's header says what to crop.

Every image has contexts of its own; to open one takes little beside the picture. One could be used again only for the
same size at the same quality, which FFmpeg fixes when it is opened, and equal input would not give equal bytes: later
pictures of a stream differ from the first (x264, x265), or come only when the stream ends (SVT-AV1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from limla.codecs import ycbcr
from limla.codecs.base import QualityScale, check_image
from limla.codecs.container import EXTENSION, read_whole, write_container
from limla.codecs.rgb import to_rgb
from limla.codecs.ycbcr import Planes
from limla.errors import DataError, SettingsError
from limla.types import Image

_PIXELS = "yuv420p"
_FULL_RANGE_PIXELS = (_PIXELS, "yuvj420p")
_FULL_RANGE, _BT709_PRIMARIES, _SRGB_TRANSFER, _BT601_MATRIX = 2, 1, 13, 5
"""Numbers of ITU-T H.273, as FFmpeg has them (its range is one more)."""
_ROOM = 256
"""Decoders count the blocks beyond a picture's sides, too, and align its rows."""


class IntraCodec(ABC):
    """A video codec for single images. A plug says which, and with what settings."""

    name: ClassVar[str]
    extension: ClassVar[str] = EXTENSION
    scale: ClassVar[QualityScale]
    encoder: ClassVar[str]
    decoder: ClassVar[str]
    shortest_side: ClassVar[int]
    """Of the pictures that the encoder takes."""
    most_rows: ClassVar[int]
    most_columns: ClassVar[int]
    pinned: ClassVar[dict[str, str]]
    """The encoder's options; "{quality}" stands for the quality."""

    @abstractmethod
    def strip(self, stream: bytes) -> bytes:
        """An encoder's stream without what is no part of the picture."""

    @abstractmethod
    def coded_sides(self, stream: bytes) -> tuple[int, int]:
        """Height and width that the stream's own header says.

        Raises `DataError` for a stream that is not built as `strip` leaves one: headers, and one picture.
        """

    @abstractmethod
    def encoder_version(self) -> str:
        """Of the library, as far as it tells."""

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image.

        Raises `SettingsError` for a quality out of range and an image that is too large, `ValueError` for a shape or
        dtype that is no image. Releases the GIL while it codes.
        """
        return self.encode_each(image, [quality])[0]

    def encode_each(self, image: Image, qualities: Sequence[int]) -> list[bytes]:
        """`encode` at each quality: the same bytes, but colours are converted only once."""
        for quality in qualities:
            self.scale.check(quality)
        check_image(image, self.name, self.most_columns)
        height, width = image.shape[:2]
        if height > self.most_rows:
            raise SettingsError(
                f"a height of {height} pixels is too much for {self.name}: at most {self.most_rows}"
            )
        planes = self._planes(image)
        return [
            write_container(self.name, height, width, self.strip(self._encode_planes(planes, quality)))
            for quality in qualities
        ]

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode what `encode` made.

        Raises `DataError` for damaged data and more than `MAX_PIXELS`. A stream of another size than the container's,
        or of more than one picture, is refused before it is decoded.
        """
        contents = read_whole(data, self.name)
        stream = bytes(contents.body)
        sides = self.padded_sides(contents.height, contents.width)
        found = self.coded_sides(stream)
        if found != sides:
            raise DataError(
                f"a .laff file of {contents.height} × {contents.width} pixels around a picture of "
                f"{found[0]} × {found[1]}, and not of {sides[0]} × {sides[1]}"
            )
        return to_rgb(self._decode_planes(stream, *sides), contents.height, contents.width)

    def settings(self) -> dict[str, str | int | bool]:
        """The pinned knobs: the encoder's options, and the pixels that it gets."""
        return {
            "encoder": self.encoder,
            **self.pinned,
            "subsampling": "420",
            "colour": "BT.601, full range",
            "threads": 1,
        }

    def version(self) -> str:
        """PyAV, FFmpeg's library in it, and the encoder."""
        libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
        return f"PyAV {av.__version__}, libavcodec {libavcodec}, {self.encoder_version()}"

    def padded_sides(self, height: int, width: int) -> tuple[int, int]:
        """Of the picture that stands for an image: even, and none shorter than the encoder takes."""
        return max(height + height % 2, self.shortest_side), max(width + width % 2, self.shortest_side)

    def _planes(self, image: Image) -> Planes:
        height, width = image.shape[:2]
        rows, columns = self.padded_sides(height, width)
        y, cb, cr = ycbcr.to_planes(image, 2, 2)
        # whole blocks come back, of which the last ones may hold what only JPEG can use: cut to even sides
        chroma = -(-height // 2), -(-width // 2)
        return Planes(
            _sized(y, 2 * chroma[0], 2 * chroma[1], rows, columns),
            _sized(cb, *chroma, rows // 2, columns // 2),
            _sized(cr, *chroma, rows // 2, columns // 2),
        )

    def _encode_planes(self, planes: Planes, quality: int) -> bytes:
        """The encoder's stream, as it comes."""
        rows, columns = planes.y.shape
        context: Any = av.CodecContext.create(self.encoder, "w")
        context.width, context.height, context.pix_fmt = columns, rows, _PIXELS
        context.time_base = context.framerate = Fraction(1)
        context.thread_count = 1
        context.color_range, context.colorspace = _FULL_RANGE, _BT601_MATRIX
        context.color_primaries, context.color_trc = _BT709_PRIMARIES, _SRGB_TRANSFER
        context.options = {
            option: value.replace("{quality}", str(quality)) for option, value in self.pinned.items()
        }
        frame = VideoFrame(columns, rows, _PIXELS)
        frame.pts = 0
        for place, plane in zip(_frame_planes(frame), planes, strict=True):
            place[:] = plane
        try:
            packets = [*context.encode(frame), *context.encode(None)]
        except av.error.FFmpegError as error:
            raise SettingsError(
                f"{self.encoder} does not take a picture of {rows} × {columns} pixels: {error.strerror}"
            ) from error
        assert len(packets) == 1, packets
        return bytes(packets[0])

    def _decode_planes(self, stream: bytes, rows: int, columns: int) -> Planes:
        """The planes of a stream of one picture; `DataError` unless it has these sides and no error."""
        context = av.CodecContext.create(self.decoder, "r")
        assert isinstance(context, VideoCodecContext)
        context.thread_count = 1
        # no error is hidden; and should a header deeper in the stream say another size, nothing is allocated for it
        context.options = {
            "err_detect": "crccheck+bitstream+buffer+explode",
            "ec": "0",
            "max_pixels": str((rows + _ROOM) * (columns + _ROOM)),
        }
        try:
            frames = [*context.decode(av.Packet(stream)), *context.decode(None)]
        except (av.error.FFmpegError, MemoryError) as error:
            raise DataError(f"not a decodable {self.name} picture: {error}") from error
        if len(frames) != 1:
            raise DataError(f"a {self.name} stream of {len(frames)} pictures, and not of one")
        (frame,) = frames
        if frame.is_corrupt or frame.format.name not in _FULL_RANGE_PIXELS:
            raise DataError(f"a damaged {self.name} picture, or not one of {_PIXELS}: {frame.format.name}")
        if (frame.height, frame.width) != (rows, columns):
            raise DataError(
                f"a {self.name} picture of {frame.height} × {frame.width}, and not of {rows} × {columns}"
            )
        return Planes(*_frame_planes(frame))


def _sized(plane: ycbcr.Plane, height: int, width: int, rows: int, columns: int) -> ycbcr.Plane:
    """The (rows, columns) plane whose corner is the `height` × `width` one of `plane`, the last ones repeated."""
    return np.pad(plane[:height, :width], ((0, rows - height), (0, columns - width)), mode="edge")


def _frame_planes(frame: VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """Views of a frame's planes, rows × columns, which keep it alive."""
    views: list[npt.NDArray[np.uint8]] = []
    for plane in frame.planes:
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        views.append(lines[:, : plane.width])
    return views
