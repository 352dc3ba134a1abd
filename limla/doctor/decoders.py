"""Every decoder that limla reads images with, pixel by pixel on the golden JPEGs."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image

from limla.codecs.decoding import decode_image
from limla.doctor.findings import Finding
from limla.doctor.records import golden_files, pixels_of
from limla.errors import LimlaError, MissingDependencyError
from limla.manifest import Manifest
from limla.shards import open_shard, shard_name
from limla.types import Image, Preprocessing

Decoder: TypeAlias = Callable[[list[Path]], list[Image]]
GPU_MEAN, GPU_MAX = 2.0, 24
"""What a GPU's decoder may differ by, of 255: per image on average, and anywhere. It has its own DCT and upsampling.

On the golden JPEGs libjpeg-turbo's fast DCT with repeated chroma lies up to 1.7 on average and 18 anywhere from its
accurate way; another decoder within about that is none that is broken.
"""


def decoder_findings() -> Iterator[Finding]:
    """A line for each decoder: equal to the recorded pixels, or where and by how much not."""
    yield _compared("simplejpeg", _by_simplejpeg)
    yield _compared("pillow", _by_pillow)
    yield _compared("dali-cpu", lambda files: _by_dali(files, "cpu"))
    yield _on_gpu()


def _compared(name: str, decode: Decoder, mean: float = 0.0, largest: int = 0) -> Finding:
    """Compare a decoder with the record; up to `mean` and `largest` levels of difference are its own way."""
    files = golden_files()
    topic = f"decoder {name}"
    try:
        decoded = decode(files)
    except MissingDependencyError as error:
        return Finding(topic, str(error))
    except LimlaError as error:
        return Finding(topic, f"differs: it does not decode what it should ({error})", differs=True)
    gaps = {path.stem: _gaps(pixels, pixels_of(path)) for path, pixels in zip(files, decoded, strict=True)}
    wrong = {
        stem: gap
        for stem, gap in gaps.items()
        if gap is None or gap.max(initial=0) > largest or gap.mean() > mean
    }
    if not wrong:
        gap = max(int(gap.max(initial=0)) for gap in gaps.values() if gap is not None)
        within = f"within its tolerance (max |Δ| {gap} of 255)" if largest else "equal"
        return Finding(topic, f"{within} on {len(files)} golden images")
    shapes = [stem for stem, gap in wrong.items() if gap is None]
    if shapes:
        return Finding(topic, f"differs: another shape, or turned, on {', '.join(shapes)}", differs=True)
    values = np.concatenate([gap.ravel() for gap in wrong.values() if gap is not None])
    text = (
        f"differs on {len(wrong)} of {len(files)} golden images ({', '.join(wrong)}): max |Δ| {values.max()} of 255, "
        f"in {100 * np.count_nonzero(values) / len(values):.2g}% of their values"
    )
    return Finding(topic, text, differs=True)


def _gaps(pixels: Image, recorded: Image) -> np.ndarray | None:
    """|Δ| of every value; None for another shape."""
    if pixels.shape != recorded.shape:
        return None
    return np.abs(pixels.astype(np.int16) - recorded)


def _by_simplejpeg(files: list[Path]) -> list[Image]:
    return [decode_image(path.read_bytes(), "jpg") for path in files]


def _by_pillow(files: list[Path]) -> list[Image]:
    decoded: list[Image] = []
    for path in files:
        with PIL.Image.open(io.BytesIO(path.read_bytes()), formats=["JPEG"]) as picture:
            decoded.append(np.asarray(picture.convert("RGB")))
    return decoded


def _by_dali(files: list[Path], device: str) -> list[Image]:
    """Through limla's own loader, so with the options that evaluation uses."""
    from limla.loaders.base import LoaderSettings, open_loader

    with tempfile.TemporaryDirectory() as folder:
        _write_shard(Path(folder), files)
        settings = LoaderSettings(Preprocessing(resize="none"), batch_size=1, device=device, num_threads=1)
        with closing(open_loader("dali", [Path(folder)], "test", settings)) as loader:  # pyright: ignore[reportArgumentType]
            return [
                np.rint(batch.images[0].cpu().numpy() * 255).astype(np.uint8).transpose(1, 2, 0)
                for batch in loader
            ]


def _write_shard(folder: Path, files: list[Path]) -> None:
    name = shard_name("test", 0)
    with open_shard(folder / name) as writer:
        for path in files:
            height, width, _ = pixels_of(path).shape
            about = json.dumps({"key": path.stem, "height": height, "width": width}).encode()
            writer.add(path.stem, {"jpg": path.read_bytes(), "cls": b"0", "json": about})
    Manifest("golden", "source", None, ("golden",), (writer.entry(name, "test"),), {}, {}).write(folder)


def _on_gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("decoder dali-gpu", "not compared: torch sees no GPU")
    return _compared("dali-gpu", lambda files: _by_dali(files, "cuda:0"), GPU_MEAN, GPU_MAX)
