"""A small convolutional autoencoder with a binary bottleneck, trained on the user's own photos.

An encoder makes a grid of binary codes, an eighth as high and wide as the image, and a decoder the image of them
(Toderici et al., ICLR 2016); training passes gradients straight through the bits (Bengio et al. 2013), at a length of
the code drawn for each image, so that every prefix decodes (Rippel, Gelbart and Adams, ICML 2014). `limla codec train`
trains it; `limla.codecs.autoencoder_code` is the code and how its bits are packed.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from limla.codecs.autoencoder_code import Codes
from limla.codecs.autoencoder_network import BLOCK, NUM_QUALITIES, Numbers, grid_shape, is_gray, without_colour
from limla.codecs.autoencoder_weights import MOST_BYTES, Weights, read_weights
from limla.codecs.base import QualityScale, check_decoded_size, check_image
from limla.codecs.blas import one_blas_thread
from limla.codecs.container import EXTENSION, LONGEST_SIDE, read_whole, write_container
from limla.errors import DataError, SettingsError
from limla.types import Image

_MARK_BYTES = 8
"""Of the weights' SHA-256, in front of each bitstream."""
_GRAY = 128


class AutoencoderCodec:
    """The learned codec. Its weights are its own: files are read with those that wrote them alone.

    Body of a file: the first 8 bytes of the weights' SHA-256, a byte with the quality, and 128 more where the image has
    no colour, the packed bits. The networks would give gray a tint; such a file decodes to the mean of red, green and
    blue.

    Args:
        weights: path of a file that `limla codec train` wrote.

    Decoding allocates 7 bytes for each pixel of the size that a header says, and what a band of the grid needs. It
    takes the time of so many pixels, however short the code: an image of one gray may have none at all.

    Raises `SettingsError` without weights, `DataError` for a file that is damaged or another.
    """

    name: ClassVar[str] = "autoencoder"
    extension: ClassVar[str] = EXTENSION
    scale: ClassVar[QualityScale] = QualityScale("code length (of 64 steps)", 1, NUM_QUALITIES)
    position_side: ClassVar[int] = BLOCK
    """Pixels along a side that one code position stands for."""

    def __init__(self, weights: str = "") -> None:
        if not weights:
            raise SettingsError(
                "codec 'autoencoder' has no weights: train some with `limla codec train DATA_DIR --output FILE`, and "
                "write autoencoder:weights=FILE"
            )
        path = Path(weights)
        if not path.is_file():
            raise SettingsError(f"codec 'autoencoder': no file of weights at {weights}")
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{weights}: too large for weights of the codec 'autoencoder'")
        data = path.read_bytes()
        try:
            self._fill(data)
        except DataError as error:
            raise DataError(f"{weights}: {error}") from error

    def _fill(self, data: bytes) -> None:
        self._data = data
        self._weights = _read(data)

    @classmethod
    def from_weights(cls, data: bytes) -> AutoencoderCodec:
        """The codec from the contents of a weights file; raises `DataError` for anything else."""
        codec = cls.__new__(cls)
        codec._fill(bytes(data))
        return codec

    def __reduce__(self) -> tuple[Any, ...]:
        return AutoencoderCodec.from_weights, (self._data,)

    def weights_bytes(self) -> bytes:
        """The contents of the weights file."""
        return self._data

    def bits_of(self, quality: int) -> int:
        """Of a code position at a quality."""
        return 2 * int(self._weights.code.lengths[self.scale.check(quality)])

    def encode(self, image: Image, quality: int) -> bytes:
        """Encode an (H, W, 3) uint8 sRGB image, sides up to 65500, at quality 1 to 64.

        Raises `SettingsError` for a quality out of range, `ValueError` for a shape or dtype that is no image.
        """
        return self.encode_each(image, [quality])[0]

    def encode_each(self, image: Image, qualities: Sequence[int]) -> list[bytes]:
        """`encode` at each quality; the network runs once."""
        for quality in qualities:
            self.scale.check(quality)
        check_image(image, "autoencoder", LONGEST_SIDE)
        if not qualities:
            return []
        digits = self._digits(image, max(qualities))
        lengths = self._weights.code.lengths
        found = {quality: self._file(image, digits[: lengths[quality]], quality) for quality in set(qualities)}
        return [found[quality] for quality in qualities]

    def _file(self, image: Image, digits: Codes, quality: int) -> bytes:
        kind = bytes((quality + _GRAY * is_gray(image),))
        body = b"".join((self._weights.digest[:_MARK_BYTES], kind, self._weights.code.write(digits)))
        height, width = image.shape[:2]
        return write_container(self.name, height, width, body)

    def decode(self, data: bytes | memoryview) -> Image:
        """Decode to (H, W, 3) uint8; raises `DataError` for damaged data, and for a file of other weights."""
        contents = read_whole(data, self.name)
        body = bytes(contents.body)
        if len(body) <= _MARK_BYTES:
            raise DataError("an autoencoder file without a code")
        own = self._weights.digest[:_MARK_BYTES]
        if body[:_MARK_BYTES] != own:
            raise DataError(
                f"written with other weights: those of SHA-256 {body[:_MARK_BYTES].hex()}…, not {own.hex()}…"
            )
        quality = body[_MARK_BYTES] & ~_GRAY
        if not self.scale.lowest <= quality <= self.scale.highest:
            raise DataError(f"an autoencoder file of code length {quality}, of 1 to {self.scale.highest}")
        rows, columns = grid_shape(contents.height, contents.width)
        digits = self._weights.code.read(body[_MARK_BYTES + 1 :], quality, rows, columns)
        image = self._image(digits, quality, contents.height, contents.width)
        return without_colour(image) if body[_MARK_BYTES] & _GRAY else image

    def codes(self, image: Image, quality: int) -> npt.NDArray[np.uint8]:
        """The binary codes of an (H, W, 3) uint8 image: (bits, ceil(H / 8), ceil(W / 8)) uint8, 0 or 1.

        Two bits are a digit: whether it is not 0, then whether it is positive. Those of a lower quality are the first
        ones of a higher. Raises as `encode`.
        """
        self.scale.check(quality)
        check_image(image, "autoencoder", LONGEST_SIDE)
        digits = self._digits(image, quality)
        return np.stack([digits != 0, digits > 0], axis=1).reshape(-1, *digits.shape[1:]).astype(np.uint8)

    def from_codes(self, codes: npt.NDArray[np.uint8], height: int, width: int, gray: bool = False) -> Image:
        """The (height, width, 3) uint8 image of what `codes` gave; raises `DataError` for what it cannot have given.

        `gray`: the image had no colour, which its file says and its codes do not; then neither has this one.
        """
        check_decoded_size(height, width)
        lengths = self._weights.code.lengths
        quality = int(np.searchsorted(lengths, codes.shape[0] // 2))
        expected = (2 * int(lengths[min(quality, NUM_QUALITIES)]), *grid_shape(height, width))
        if codes.shape != expected or not quality or codes.dtype != np.uint8:
            raise DataError(
                f"codes of shape {codes.shape} are none of an image of {height} × {width} pixels with these weights"
            )
        if codes.max() > 1 or (codes[1::2] > codes[::2]).any():
            raise DataError("codes that no encoder writes: each is 0 or 1, and a digit of 0 has no sign")
        other, positive = codes[::2].astype(np.int8), codes[1::2].astype(np.int8)
        image = self._image(other * (2 * positive - 1), quality, height, width)
        return without_colour(image) if gray else image

    def settings(self) -> dict[str, str | int | bool]:
        """The weights, by their contents."""
        return {"weights": self._weights.digest.hex()[:16], "bits": self.bits_of(self.scale.highest)}

    def version(self) -> str:
        """What packs the bits; the networks are computed in whole numbers, by any version of numpy."""
        return f"constriction {importlib.metadata.version('constriction')}"

    def _digits(self, image: Image, quality: int) -> Codes:
        weights = self._weights
        rows, columns = grid_shape(*image.shape[:2])
        found = np.empty((int(weights.code.lengths[quality]), rows, columns), np.int8)
        with one_blas_thread():
            for first, numbers in weights.network.analyse(image):
                found[:, first : first + len(numbers)] = weights.code.digits(numbers, weights.step, quality)
        return found

    def _image(self, digits: Codes, quality: int, height: int, width: int) -> Image:
        weights = self._weights
        image = np.empty((height, width, 3), np.uint8)

        def numbers(first: int, last: int) -> Numbers:
            return weights.code.numbers(digits[:, first:last], weights.step)

        with one_blas_thread():
            weights.network.synthesise(numbers, quality, image)
        return image


@functools.lru_cache(maxsize=4)
def _read(data: bytes) -> Weights:
    """A stage builds its codec more than once."""
    return read_weights(data)
