"""What CONTRIBUTING.md promises: one file and one catalogue line make a codec that every stage takes."""

from __future__ import annotations

import importlib.metadata
import sys
import types
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from limla.codecs import decoding
from limla.codecs.base import QualityScale
from limla.errors import DataError, SettingsError
from limla.loaders.base import LoaderSettings, open_loader
from limla.reencoding import ReencodeSettings, reencode
from limla.registry import CODECS
from limla.results import read_encodings
from limla.types import Image, Preprocessing
from tests.variants import member, write_variant


class Planes:
    """Pixels with the lowest `quality` bits cleared, deflated behind the image's size: lossy, and a real bitstream."""

    name: ClassVar[str] = "planes"
    extension: ClassVar[str] = "pln"
    scale: ClassVar[QualityScale] = QualityScale("cleared bits", 0, 7, higher_is_better=False)

    def encode(self, image: Image, quality: int) -> bytes:
        kept = image & (0xFF << self.scale.check(quality) & 0xFF)
        return np.array(image.shape[:2], ">u4").tobytes() + zlib.compress(kept.tobytes())

    def decode(self, data: bytes | memoryview) -> Image:
        try:
            height, width = np.frombuffer(data[:8], ">u4")
            return np.frombuffer(zlib.decompress(data[8:]), np.uint8).reshape(height, width, 3).copy()
        except (ValueError, zlib.error) as error:
            raise DataError(f"not planes: {error}") from error

    def settings(self) -> dict[str, str | int | bool]:
        return {}

    def version(self) -> str:
        return f"numpy {importlib.metadata.version('numpy')}"


@pytest.fixture
def planes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("planes_codec")
    module.Planes = Planes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "planes_codec", module)
    monkeypatch.setitem(CODECS.plugs, "planes", "planes_codec:Planes")
    decoding._by_extension.cache_clear()


@pytest.mark.usefixtures("planes")
def test_a_new_codec_goes_through_reencoding_and_the_loaders(tmp_path: Path) -> None:
    shards = [[member(number, 30 + number, 41) for number in numbers] for numbers in (range(3), range(3, 5))]
    write_variant(tmp_path / "source", {"test": shards})
    result = reencode(tmp_path, ReencodeSettings(codec="planes", qualities=(0, 4), measure="all"))
    assert result.made == ("planes-q0", "planes-q4")
    rows = read_encodings(tmp_path, ["planes-q0", "planes-q4"]).to_pylist()
    assert {row["codec"] for row in rows} == {"planes"}
    assert all(row["psnr_db"] == float("inf") for row in rows if row["quality"] == 0)
    assert all(25 < row["psnr_db"] < 40 for row in rows if row["quality"] == 4)

    settings = LoaderSettings(preprocessing=Preprocessing(image_size=16), batch_size=2)
    passes = {}
    for variant in ("source", "planes-q0"):
        loader = open_loader("cpu", [tmp_path / variant], "test", settings)
        passes[variant] = [(batch.keys, batch.images.numpy().copy()) for batch in loader]
        loader.close()
    for (keys, images), (keys_here, images_here) in zip(passes["source"], passes["planes-q0"], strict=True):
        assert keys == keys_here
        assert np.array_equal(images, images_here)


@pytest.mark.usefixtures("planes")
def test_a_knob_the_codec_lacks_is_refused() -> None:
    with pytest.raises(SettingsError, match="'planes' has no setting 'subsampling'"):
        ReencodeSettings(codec="planes", qualities=(1,), subsampling="420")
