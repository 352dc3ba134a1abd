"""What is particular to AVIF; what every codec must do is in tests/contracts."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.AvifImagePlugin
import PIL.features
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import build_codec, codec_label
from limla.codecs.avif import AvifCodec
from limla.codecs.base import MAX_PIXELS
from limla.errors import DataError, MissingDependencyError, SettingsError
from limla.metrics import psnr_db
from tests.catalogue import decodes_or_data_error
from tests.conftest import natural_like


def with_sides(data: bytes, height: int, width: int) -> bytes:
    """The file with other sides in its boxes."""
    changed = bytearray(data)
    struct.pack_into(">II", changed, data.index(b"ispe") + 8, width, height)
    return bytes(changed)


def test_the_knobs_are_of_the_encoder() -> None:
    image = natural_like(64, 96, seed=1)
    files = {
        text: build_codec(text).encode(image, 50) for text in ("avif", "avif:speed=9", "avif:subsampling=444")
    }
    assert len(set(files.values())) == 3
    colourful = np.zeros((32, 32, 3), np.uint8)
    colourful[:, ::2, 0] = 200
    halved, whole = (
        psnr_db(colourful, codec.decode(codec.encode(colourful, 90)))
        for codec in (AvifCodec(), AvifCodec(subsampling="444"))
    )
    assert whole > halved + 10
    assert codec_label("avif:speed=6") == "avif"
    assert "libaom 3." in AvifCodec().version()


def test_what_cannot_be_is_refused_with_what_can() -> None:
    with pytest.raises(SettingsError, match="AVIF speed 11 is out of range: choose 0 to 10"):
        AvifCodec(speed=11)
    with pytest.raises(SettingsError, match="unknown chroma subsampling '400'; known: 420, 422, 444"):
        AvifCodec(subsampling="400")
    with pytest.raises(SettingsError, match="32769 pixels is too long for AVIF: at most 32768"):
        AvifCodec().encode(np.zeros((1, 32769, 3), np.uint8), 50)


def test_a_pillow_without_avif_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.features, "check", lambda feature: feature != "avif")
    with pytest.raises(MissingDependencyError, match="codec 'avif' needs a Pillow with avif"):
        build_codec("avif")


@pytest.mark.parametrize("shape", [(1, 32768), (32768, 1)])
def test_the_longest_side_can_be_written_and_read(shape: tuple[int, int]) -> None:
    codec = AvifCodec(speed=10)
    line = np.full((*shape, 3), 90, np.uint8)
    assert np.abs(codec.decode(codec.encode(line, 50)).astype(int) - 90).max() <= 2


def test_a_thread_on_each_call_and_pillows_setting_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plugin = PIL.AvifImagePlugin._avif
    original = plugin.AvifDecoder

    def noted(data: bytes, codec: str, max_threads: int) -> object:
        seen.append(max_threads)
        return original(data, codec, max_threads)

    monkeypatch.setattr(plugin, "AvifDecoder", noted)
    monkeypatch.setattr(PIL.AvifImagePlugin, "DEFAULT_MAX_THREADS", 3)
    data = AvifCodec().encode(natural_like(40, 50), 50)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(AvifCodec().decode, [data] * 20))
    assert seen == [1] * 20
    assert PIL.AvifImagePlugin.DEFAULT_MAX_THREADS == 3


def test_every_cut_is_seen() -> None:
    codec = AvifCodec()
    data = codec.encode(natural_like(24, 40), 50)
    for length in range(len(data)):
        with pytest.raises(DataError):
            codec.decode(data[:length])
    with pytest.raises(DataError):
        codec.decode(data + b"\0")


def test_sides_that_are_not_the_pictures_are_refused_and_not_scaled() -> None:
    """libavif scales the picture to what the boxes say: 15 s and 1.8 GB for a file of 400 bytes."""
    codec = AvifCodec()
    data = codec.encode(natural_like(16, 16), 50)
    with PIL.Image.open(io.BytesIO(with_sides(data, 16, 40))) as picture:
        assert picture.convert("RGB").size == (40, 16)
    for sides in ((16, 17), (8, 8), (10000, 16000)):
        with pytest.raises(DataError, match="its boxes and its picture are not of one size"):
            codec.decode(with_sides(data, *sides))
    with pytest.raises(
        DataError, match=f"20000 × 20000 pixels; an image has at least 1 and at most {MAX_PIXELS}"
    ):
        codec.decode(with_sides(data, 20000, 20000))
    with pytest.raises(DataError, match="0 × 16 pixels"):
        codec.decode(with_sides(data, 0, 16))


def test_kinds_that_it_does_not_write_are_refused() -> None:
    """Transparency, animations, turned pictures and metadata have no place among the pixels of a shard."""
    picture = PIL.Image.fromarray(natural_like(16, 24))
    clear = picture.copy()
    clear.putalpha(100)
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    for frame, options in (
        (clear, {}),
        (picture, {"save_all": True, "append_images": [picture.rotate(180)]}),
        (picture, {"exif": turned.tobytes()}),
        (picture, {"xmp": b"<x/>"}),
    ):
        file = io.BytesIO()
        frame.save(file, "AVIF", **options)
        with pytest.raises(DataError, match="of a kind this codec does not write"):
            AvifCodec().decode(file.getvalue())


def test_processors_that_can_do_less_make_the_same_bytes() -> None:
    """libaom, and libjpeg-turbo too, without the instructions that only some processors have."""
    names = ("avif", "avif:speed=9", "jpeg-progressive")
    image = natural_like(90, 130, seed=4)
    expected = [hashlib.sha256(build_codec(name).encode(image, 60)).hexdigest() for name in names]
    program = (
        "import hashlib\nfrom limla.codecs import build_codec\nfrom tests.conftest import natural_like\n"
        f"for name in {names}:\n"
        "    data = build_codec(name).encode(natural_like(90, 130, seed=4), 60)\n"
        "    print(hashlib.sha256(data).hexdigest())"
    )
    plain = {"AOM_SIMD_CAPS_MASK": "0", "JSIMD_FORCENONE": "1"}
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **plain}, cwd=root, capture_output=True, text=True
    )
    assert found.stdout.split() == expected, found.stderr


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.integers(0, 330), st.integers(0, 255)), min_size=1, max_size=4),
    spread=st.booleans(),
)
def test_damage_in_boxes_and_headers(changes: list[tuple[int, int]], spread: bool) -> None:
    """Mostly in the boxes, the sequence header and the frame's header: what decodes is of the size that was told."""
    codec = AvifCodec()
    data = bytearray(codec.encode(natural_like(20, 28), 60))
    for place, value in changes:
        data[place * len(data) // 331 if spread else place] = value
    decodes_or_data_error(codec.decode, bytes(data))
