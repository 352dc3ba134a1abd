"""The inputs of the probes as arrays on disk: each image and view encoded once, for all seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from limla.codecs.base import Codec
from limla.errors import DataError, SettingsError
from limla.files import atomic_open, write_json
from limla.loaders.base import LoaderSettings, open_loader
from limla.manifest import SOURCE, SPLITS
from limla.metrics import rate_bpp
from limla.paths import AnyPath
from limla.probing.settings import PIXELS, BinaryCodes, ProbeInput
from limla.probing.views import VIEWS_IN_TEST, VIEWS_IN_TRAINING, View, ViewGrid
from limla.progress import Progress
from limla.types import Image, Preprocessing

Bytes = npt.NDArray[np.uint8]
_NUM_VIEWS = {"train": VIEWS_IN_TRAINING, "val": 0, "test": VIEWS_IN_TEST}
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Samples:
    """The images of a split, in the order of every array.

    Attributes:
        keys: of the shards.
        labels: (N,) int64 class indices.
    """

    keys: tuple[str, ...]
    labels: npt.NDArray[np.int64]


def code_shapes(codec: Codec, qualities: Iterable[int], image_size: int) -> dict[int, tuple[int, ...]]:
    """Quality → (bits, h, w) of the codes of square images; raises `DataError` for what are no codes."""
    grey = np.full((image_size, image_size, 3), 128, np.uint8)
    return {quality: _codes(codec, grey, quality).shape for quality in qualities}


def code_cell(shapes: Mapping[int, tuple[int, ...]], image_size: int) -> int:
    """Side in pixels of one place of the codes of such `code_shapes`.

    Raises `SettingsError` for an image size that is no whole number of places, and for qualities that differ in it.
    """
    sides = {quality: shape[1:] for quality, shape in shapes.items()}
    for height, width in sides.values():
        if height != width or image_size % height:
            raise SettingsError(
                f"image size {image_size}: its codes are {height} × {width}, which does not divide it; "
                f"choose a multiple of {-(-image_size // height)}"
            )
    if len(set(sides.values())) > 1:
        texts = ", ".join(f"{side[0]} × {side[1]} at quality {quality}" for quality, side in sides.items())
        raise SettingsError(f"the qualities' codes are not on one grid ({texts}): probe them one by one")
    return image_size // next(iter(sides.values()))[0]


class InputStore:
    """Makes the arrays of an input where they are not there, and opens them.

    Every array is uint8, (N, C, h, w) of whole images and (N, V, C, h, w) of views: pixels 0 … 255, codes 0 or 1.

    Args:
        folder: of the arrays; it may be removed at any time, and they are made again.
        data_dir: with the shards.
        grid: of images and views.
        codec: with `BinaryCodes`.
    """

    def __init__(self, folder: Path, data_dir: AnyPath, grid: ViewGrid, codec: Codec) -> None:
        self._folder = folder
        self._data_dir = data_dir
        self._grid = grid
        self._codec = codec

    def whole(self, source: ProbeInput, split: str) -> Bytes:
        """The whole images of a split, mapped from disk."""
        return np.load(self._path(source, split, "whole"), mmap_mode="r")

    def views(self, source: ProbeInput, split: str) -> Bytes:
        """The views of the train or test images, mapped from disk."""
        return np.load(self._path(source, split, "views"), mmap_mode="r")

    def samples(self, progress: Progress) -> dict[str, Samples]:
        """Keys and labels by split; reads the shards where the originals' pixels are not there."""
        done = self._folder / "samples.json"
        if not done.is_file():
            found = {split: self._read_pixels(split, progress) for split in SPLITS}
            write_json(
                done,
                {
                    split: {"keys": list(samples.keys), "labels": samples.labels.tolist()}
                    for split, samples in found.items()
                },
            )
        stored = _stored(done)
        return {
            split: Samples(tuple(values["keys"]), np.asarray(values["labels"], np.int64))
            for split, values in stored.items()
        }

    def rate(self, quality: int, samples: dict[str, Samples], progress: Progress) -> float:
        """Mean bits per pixel of the test images' files; makes the decoded pixels and the codes where they are not."""
        for split in SPLITS:
            done = self._bytes_path(quality, split)
            if not done.is_file():
                write_json(done, {"num_bytes": self._encode(split, quality, samples[split], progress)})
        num_bytes = _stored(self._bytes_path(quality, "test"))["num_bytes"]
        side = self._grid.image_size
        return float(np.mean([rate_bpp(number, side, side) for number in num_bytes]))

    def _bytes_path(self, quality: int, split: str) -> Path:
        """Written after the arrays of that quality and split, which are complete where it is."""
        return self._folder / f"q{quality}-{split}.json"

    def _path(self, source: ProbeInput, split: str, part: str) -> Path:
        return self._folder / f"{source.file_name}-{split}-{part}.npy"

    def _read_pixels(self, split: str, progress: Progress) -> Samples:
        """One pass over the shards; the loader's values are rounded to 8 bits, which codecs take."""
        settings = LoaderSettings(
            preprocessing=Preprocessing(image_size=self._grid.image_size), batch_size=_IMAGES_AT_ONCE
        )
        loader = open_loader("auto", [self._data_dir / SOURCE], split, settings)
        keys: list[str] = []
        labels: list[int] = []
        try:
            with (
                self._writing(PIXELS, split, 3, loader.num_samples) as write,
                progress.stage(f"reading {split}", loader.num_samples) as advance,
            ):
                for batch in loader:
                    planes = (batch.images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
                    for key, image in zip(batch.keys, planes, strict=True):
                        cuts = [self._grid.cut(image, view) for view in self._drawn(key, split)]
                        write(_planes(image), [_planes(cut) for cut in cuts])
                    keys += batch.keys
                    labels += batch.labels.tolist()
                    advance(len(batch.keys))
        finally:
            loader.close()
        return Samples(tuple(keys), np.asarray(labels, np.int64))

    def _encode(self, split: str, quality: int, samples: Samples, progress: Progress) -> list[int]:
        """Decoded pixels and codes of a split at a quality; returns each whole image's bytes."""
        images = self.whole(PIXELS, split)
        bits = code_shapes(self._codec, [quality], self._grid.image_size)[quality][0]

        def encoded(index: int) -> list[_Encoded]:
            image = np.ascontiguousarray(images[index].transpose(1, 2, 0))
            cuts = [self._grid.cut(image, view) for view in self._drawn(samples.keys[index], split)]
            return [self._through_codec(part, quality) for part in (image, *cuts)]

        num_bytes: list[int] = []
        total = len(images)
        with (
            self._writing(ProbeInput("decoded", quality), split, 3, total) as write_decoded,
            self._writing(ProbeInput("codes", quality), split, bits, total, self._grid.cell) as write_codes,
            ThreadPoolExecutor(len(os.sched_getaffinity(0)), "limla-probe") as pool,
            progress.stage(f"encoding {split} at quality {quality}", total) as advance,
        ):
            # chunk by chunk, so that no more is computed ahead than one of them
            for first in range(0, total, _IMAGES_AT_ONCE):
                for whole, *views in pool.map(encoded, range(first, min(first + _IMAGES_AT_ONCE, total))):
                    write_decoded(whole.pixels, [view.pixels for view in views])
                    write_codes(whole.codes, [view.codes for view in views])
                    num_bytes.append(whole.num_bytes)
                    advance(1)
        return num_bytes

    def _drawn(self, key: str, split: str) -> tuple[View, ...]:
        return self._grid.draw(key, _NUM_VIEWS[split])

    def _through_codec(self, image: Image, quality: int) -> _Encoded:
        data = self._codec.encode(image, quality)
        codes = _codes(self._codec, image, quality)
        side = image.shape[0] // self._grid.cell
        if codes.shape[1:] != (side, side):
            raise DataError(
                f"codec '{self._codec.name}' makes {codes.shape[1]} × {codes.shape[2]} codes of {image.shape[0]} × "
                f"{image.shape[1]} pixels and needs {side} × {side}: its grid must not depend on the image"
            )
        # from the file, not from the codes: it may say more than they do, as that a photo is gray
        return _Encoded(len(data), _planes(self._codec.decode(data)), codes)

    @contextmanager
    def _writing(
        self, source: ProbeInput, split: str, channels: int, total: int, cell: int = 1
    ) -> Iterator[Callable[[Bytes, list[Bytes]], None]]:
        """A function that adds an image and its views, (C, h, w) each, to arrays that appear when the block ends."""
        whole_side, view_side = (side // cell for side in (self._grid.image_size, self._grid.view_size))
        num_views = self._grid.num_views(_NUM_VIEWS[split])
        with ExitStack() as files:
            whole = files.enter_context(atomic_open(self._path(source, split, "whole")))
            _write_header(whole, (total, channels, whole_side, whole_side))
            views = None
            if num_views:
                views = files.enter_context(atomic_open(self._path(source, split, "views")))
                _write_header(views, (total, num_views, channels, view_side, view_side))

            def write(image: Bytes, cuts: list[Bytes]) -> None:
                assert len(cuts) == num_views
                whole.write(image.tobytes())
                for cut in cuts:
                    assert views is not None
                    views.write(cut.tobytes())

            yield write


@dataclass(frozen=True)
class _Encoded:
    num_bytes: int
    pixels: Bytes
    codes: Bytes


def _planes(image: Image) -> Bytes:
    return image.transpose(2, 0, 1)


def _codes(codec: Codec, image: Image, quality: int) -> Bytes:
    """The codes, held to the protocol."""
    assert isinstance(codec, BinaryCodes)
    codes = codec.codes(image, quality)
    if codes.dtype != np.uint8 or codes.ndim != 3 or 0 in codes.shape or codes.max() > 1:
        raise DataError(
            f"codec '{codec.name}' gives codes of shape {codes.shape}, {codes.dtype}: "
            "they must be (bits, h, w) uint8 of 0 and 1"
        )
    return codes


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _stored(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); remove it and run again") from error
