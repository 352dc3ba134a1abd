"""Shards of every codec through every loader: what DALI decodes as the codec does, and what it refuses.

DALI's pixels are the codec's bit for bit, but of JPEG 2000: the 9/7 wavelet is in floating point, and where a value
falls between two whole numbers another build of OpenJPEG may round it to the other.
"""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from limla.codecs import build_codec
from limla.codecs.base import WEIGHTS, Codec, Learned
from limla.errors import SettingsError
from limla.loaders.base import LoaderSettings, Reencoding, open_loader
from limla.loaders.dali_errors import decoded_extensions
from limla.loaders.decodable import DALI_CPU_DECODES, DALI_DECODES
from limla.manifest import Manifest
from limla.shards import open_shard
from limla.types import Image, Preprocessing
from tests.catalogue import SHAPES, catalogue_codec, qualities
from tests.conftest import natural_like

DECODED = {"jpeg-progressive": "jpg", "jpeg2000": "jp2", "webp": "webp", "png": "png"}
"""Codecs whose files DALI decodes on a CPU as they do."""
ROUNDED_OTHERWISE = {"jpeg2000": 1e-5}
"""Codec → the share of values that may be one of 255 away: 6 in ten million were found on 50 photographs."""


def assert_agree(name: str, found: list[Image], expected: list[Image]) -> None:
    steps = [
        np.abs(one.astype(int) - other.astype(int)).ravel() for one, other in zip(found, expected, strict=True)
    ]
    differences = np.concatenate(steps)
    assert differences.max() <= (name in ROUNDED_OTHERWISE)
    assert np.count_nonzero(differences) <= ROUNDED_OTHERWISE.get(name, 0) * len(differences)


def write_shard(folder: Path, codec: Codec, quality: int, images: list[Image]) -> Path:
    """A variant folder of one shard, split "test"."""
    with open_shard(folder / "test-000000.tar") as shard:
        for number, image in enumerate(images):
            metadata = {"key": f"s{number}", "height": image.shape[0], "width": image.shape[1]}
            members = {codec.extension: codec.encode(image, quality), "cls": b"0"}
            shard.add(f"s{number}", {**members, "json": json.dumps(metadata).encode()})
    entries = (shard.entry("test-000000.tar", "test"),)
    Manifest("things", codec.name, quality, ("only",), entries, {}, {}).write(folder)
    return folder


def pixels(loader: str, folder: Path, num_threads: int = 1) -> list[Image]:
    """The images as a loader decodes them, at their own size."""
    settings = LoaderSettings(Preprocessing(resize="none"), batch_size=1, num_threads=num_threads)
    with closing(open_loader(loader, [folder], "test", settings)) as opened:
        batches = [batch.images[0].permute(1, 2, 0).numpy() for batch in opened]
    assert all(np.abs(255 * image - (255 * image).round()).max() < 1e-4 for image in batches)
    return [(255 * image).round().astype(np.uint8) for image in batches]


@pytest.mark.parametrize("name", DECODED)
def test_every_loader_decodes_as_the_codec(name: str, tmp_path: Path) -> None:
    """Odd and tiny sizes, from the worst quality to the best."""
    codec = build_codec(name)
    assert codec.extension in DALI_CPU_DECODES
    images = [natural_like(height, width, 3) for height, width in (*SHAPES, (61, 83))]
    for quality in qualities(codec, 3):
        folder = write_shard(tmp_path / f"{name}-q{quality}", codec, quality, images)
        expected = [codec.decode(codec.encode(image, quality)) for image in images]
        assert_agree(name, pixels("dali", folder), expected)
        for loader in ("cpu", "webdataset"):
            for found, wanted in zip(pixels(loader, folder), expected, strict=True):
                assert np.array_equal(found, wanted), (loader, quality, wanted.shape)


@pytest.mark.parametrize("name", DECODED)
def test_dali_decodes_photographs_as_the_codec(name: str, tmp_path: Path, flowers: Path) -> None:
    images = []
    for path in sorted(flowers.rglob("*.jpg"))[::150][:4]:
        with PIL.Image.open(path) as picture:
            images.append(np.asarray(picture.convert("RGB")))
    assert len(images) == 4
    codec = build_codec(name)
    for quality in qualities(codec, 3):
        folder = write_shard(tmp_path / f"{name}-q{quality}", codec, quality, images)
        expected = [codec.decode(codec.encode(image, quality)) for image in images]
        assert_agree(name, pixels("dali", folder), expected)


@pytest.mark.parametrize("name", ["avif", "svd", "h264", "autoencoder"])
def test_what_dali_does_not_decode_is_refused_at_opening_and_the_others_read_it(
    name: str, tmp_path: Path
) -> None:
    """A learned codec's weights lie beside its shards; webdataset takes them to its worker processes."""
    images = [natural_like(20, 30, seed) for seed in range(3)]
    codec = catalogue_codec(name)
    quality = qualities(codec, 3)[1]
    folder = write_shard(tmp_path / f"{name}-q{quality}", codec, quality, images)
    if isinstance(codec, Learned):
        (folder / WEIGHTS).write_bytes(codec.weights_bytes())
    with pytest.raises(
        SettingsError, match=rf"^DALI does not decode \.{codec.extension} files: choose the cpu loader$"
    ):
        open_loader("dali", [folder], "test", LoaderSettings())
    for loader, num_threads in (("cpu", 2), ("webdataset", 1), ("webdataset", 2), ("auto", 1)):
        for found, image in zip(pixels(loader, folder, num_threads), images, strict=True):
            assert np.array_equal(found, codec.decode(codec.encode(image, quality)))


def test_reencoding_to_what_dali_does_not_decode_is_refused_at_opening(tmp_path: Path) -> None:
    folder = write_shard(tmp_path / "jpeg-q90", build_codec("jpeg"), 90, [natural_like(20, 30)])
    for codec, quality in (("avif", 50), ("svd", 50)):
        settings = LoaderSettings(reencoding=Reencoding(codec, (quality,)))
        extension = build_codec(codec).extension
        with pytest.raises(SettingsError, match=rf"DALI does not decode \.{extension} files: choose the cpu"):
            open_loader("dali", [folder], "test", settings)


def test_on_a_gpu_jpeg_2000_is_left_to_the_cpu_loader() -> None:
    """Its decoder there is another one, which nobody has compared."""
    assert decoded_extensions("cuda", ["jpg", "webp"]) == DALI_DECODES
    assert "jp2" in decoded_extensions("cpu", ["jp2"])
    with pytest.raises(
        SettingsError, match=r"DALI does not decode \.jp2 files on a GPU: choose the cpu loader"
    ):
        decoded_extensions("cuda", ["jpg", "jp2"])
    with pytest.raises(
        SettingsError, match=r"DALI does not decode files of a codec that this limla does not know"
    ):
        decoded_extensions("cpu", [""])


def test_a_mix_is_refused_for_any_of_its_folders(tmp_path: Path) -> None:
    images = [natural_like(20, 30, seed) for seed in range(3)]
    folders = [
        write_shard(tmp_path / f"{name}-q{quality}", build_codec(name), quality, images)
        for name, quality in (("webp", 50), ("avif", 50))
    ]
    with pytest.raises(SettingsError, match=r"\.avif files"):
        open_loader("dali", folders, "test", LoaderSettings())


def test_webdataset_reads_jpeg_by_pillow_itself(tmp_path: Path) -> None:
    """And so differs in nothing: the decoders agree bit for bit."""
    codec, image = build_codec("jpeg"), natural_like(33, 47)
    folder = write_shard(tmp_path / "jpeg-q60", codec, 60, [image])
    expected = np.asarray(PIL.Image.open(io.BytesIO(codec.encode(image, 60))).convert("RGB"))
    assert np.array_equal(pixels("webdataset", folder)[0], expected)
