"""The inputs of the probes as arrays on disk: each image and view encoded once, for all seeds."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from limla.codecs.base import BinaryCodes
from limla.errors import DataError, SettingsError
from limla.files import atomic_open, write_json
from limla.loaders.base import LoaderSettings, open_loader
from limla.manifest import SOURCE, SPLITS
from limla.metrics import rate_bpp
from limla.paths import AnyPath
from limla.probing.settings import PIXELS, ProbeInput
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


def code_shapes(codec: BinaryCodes, qualities: Iterable[int], image_size: int) -> dict[int, tuple[int, ...]]:
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
        folder: of the arrays; what is removed of it between runs is made again.
        data_dir: with the shards.
        grid: of images and views.
        codec: of the qualities asked for.
    """

    def __init__(self, folder: Path, data_dir: AnyPath, grid: ViewGrid, codec: BinaryCodes) -> None:
        self._folder = folder
        self._data_dir = data_dir
        self._grid = grid
        self._codec = codec

    @property
    def record(self) -> Path:
        """The file of keys and labels."""
        return self._folder / "samples.json"

    def whole(self, source: ProbeInput, split: str) -> Bytes:
        """The whole images of a split, mapped from disk; `prepare` was called."""
        return _mapped(self._path(source, split, "whole"))

    def views(self, source: ProbeInput, split: str) -> Bytes:
        """The views of the train or test images, mapped from disk; `prepare` was called."""
        return _mapped(self._path(source, split, "views"))

    def samples(self, progress: Progress) -> dict[str, Samples]:
        """Keys and labels by split; reads the shards where they are not recorded. Raises `DataError` for damage."""
        if not self.record.is_file():
            found = {split: self._read_pixels(split, progress) for split in SPLITS}
            write_json(
                self.record,
                {
                    split: {"keys": list(samples.keys), "labels": samples.labels.tolist()}
                    for split, samples in found.items()
                },
            )
        with _reading(self.record) as stored:
            samples = {
                split: Samples(tuple(stored[split]["keys"]), np.asarray(stored[split]["labels"], np.int64))
                for split in SPLITS
            }
            if any(found.labels.shape != (len(found.keys),) for found in samples.values()):
                raise ValueError("not as many labels as keys")
        return samples

    def prepare(self, source: ProbeInput, samples: dict[str, Samples], progress: Progress) -> float | None:
        """Make the input's arrays where they are missing or of another size.

        Returns the mean bits per pixel of the test images' files, None for the originals' pixels.
        Raises `DataError` for damaged records.
        """
        if source.quality is None:
            for split in SPLITS:
                self._prepare_pixels(split, samples[split], progress)
            return None
        bits = code_shapes(self._codec, [source.quality], self._grid.image_size)[source.quality][0]
        return [
            self._prepare_quality(split, source.quality, bits, samples[split], progress) for split in SPLITS
        ][-1]

    def _prepare_pixels(self, split: str, samples: Samples, progress: Progress) -> None:
        if self._is_whole(PIXELS, split, 3, len(samples.keys)):
            return
        found = self._read_pixels(split, progress)
        if found.keys != samples.keys or (found.labels != samples.labels).any():
            raise DataError(f"{self.record}: does not fit the shards; remove {self._folder} and run again")

    def _prepare_quality(
        self, split: str, quality: int, bits: int, samples: Samples, progress: Progress
    ) -> float:
        """Of both the decoded pixels and the codes; returns the split's mean rate."""
        done, total = self._bytes_path(quality, split), len(samples.keys)
        is_whole = (
            done.is_file()
            and self._is_whole(ProbeInput("decoded", quality), split, 3, total)
            and self._is_whole(ProbeInput("codes", quality), split, bits, total, self._grid.cell)
        )
        if not is_whole:
            self._prepare_pixels(split, samples, progress)
            write_json(done, {"num_bytes": self._encode(split, quality, bits, samples, progress)})
        side = self._grid.image_size
        with _reading(done) as stored:
            num_bytes = stored["num_bytes"]
            if len(num_bytes) != total:
                raise ValueError(f"{len(num_bytes)} files of {total} images")
            return float(np.mean([rate_bpp(number, side, side) for number in num_bytes]))

    def _bytes_path(self, quality: int, split: str) -> Path:
        """Written after the arrays of that quality and split."""
        return self._folder / f"q{quality}-{split}.json"

    def _shapes(self, split: str, channels: int, total: int, cell: int) -> dict[str, tuple[int, ...]]:
        """Part → shape of an input's arrays of a split."""
        whole_side, view_side = (side // cell for side in (self._grid.image_size, self._grid.view_size))
        num_views = self._grid.num_views(_NUM_VIEWS[split])
        shapes: dict[str, tuple[int, ...]] = {"whole": (total, channels, whole_side, whole_side)}
        if num_views:
            shapes["views"] = (total, num_views, channels, view_side, view_side)
        return shapes

    def _is_whole(self, source: ProbeInput, split: str, channels: int, total: int, cell: int = 1) -> bool:
        """Whether the arrays are there, in their sizes."""
        for part, shape in self._shapes(split, channels, total, cell).items():
            path, header = self._path(source, split, part), io.BytesIO()
            _write_header(header, shape)
            if not path.is_file() or path.stat().st_size != header.tell() + math.prod(shape):
                return False
        return True

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

    def _encode(self, split: str, quality: int, bits: int, samples: Samples, progress: Progress) -> list[int]:
        """Decoded pixels and codes of a split at a quality; returns each whole image's bytes."""
        images = self.whole(PIXELS, split)

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
        shapes = self._shapes(split, channels, total, cell)
        with ExitStack() as stack:
            files = {part: stack.enter_context(atomic_open(self._path(source, split, part))) for part in shapes}
            for part, shape in shapes.items():
                _write_header(files[part], shape)

            def write(image: Bytes, cuts: list[Bytes]) -> None:
                assert len(cuts) == self._grid.num_views(_NUM_VIEWS[split])
                files["whole"].write(image.tobytes())
                for cut in cuts:
                    files["views"].write(cut.tobytes())

            yield write


@dataclass(frozen=True)
class _Encoded:
    num_bytes: int
    pixels: Bytes
    codes: Bytes


def _planes(image: Image) -> Bytes:
    return image.transpose(2, 0, 1)


def _codes(codec: BinaryCodes, image: Image, quality: int) -> Bytes:
    """The codes, held to the protocol."""
    codes = codec.codes(image, quality)
    if codes.dtype != np.uint8 or codes.ndim != 3 or 0 in codes.shape or codes.max() > 1:
        raise DataError(
            f"codec '{codec.name}' gives codes of shape {codes.shape}, {codes.dtype}: "
            "they must be (bits, h, w) uint8 of 0 and 1"
        )
    return codes


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _mapped(path: Path) -> Bytes:
    try:
        return np.load(path, mmap_mode="r")
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); remove it and run again") from error


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """A record's JSON; raises `DataError` where the block finds it other than it is written."""
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: damaged ({type(error).__name__}: {error}); remove it and run again"
        ) from error
