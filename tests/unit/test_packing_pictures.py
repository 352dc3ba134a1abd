"""One policy for every kind of odd picture; whatever cannot be decoded is refused with a reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import simplejpeg
from PIL import ImageCms

from limla.codecs.decoding import decode_image
from limla.errors import DataError
from limla.packing.settings import MAX_PIXELS
from limla.pictures.policies import PROFILE_NOTE, Picture, read_picture, read_pixels
from limla.types import Image
from tests.conftest import natural_like

PHOTO = natural_like(40, 56, seed=1)


def saved(image: Any, file_format: str, **options: Any) -> bytes:
    picture = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray[Any, Any], colour_type: int, *extra: bytes) -> bytes:
    """A PNG of 8-bit or 16-bit samples, written by hand: Pillow writes no 16-bit colour."""
    height, width = pixels.shape[:2]
    bits = pixels.dtype.itemsize * 8
    rows = pixels.astype(f">u{pixels.dtype.itemsize}")
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", body), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def read(data: bytes, convert_profiles: bool = False) -> tuple[Picture, Image]:
    picture = read_picture(data, MAX_PIXELS, convert_profiles)
    pixels = decode_image(picture.data, picture.extension)
    assert pixels.shape == (picture.height, picture.width, 3)
    assert np.array_equal(read_pixels(data, MAX_PIXELS, convert_profiles), pixels)
    assert (picture.data == data) == (not picture.converted)
    if picture.converted:
        assert picture.extension == "png"
    return picture, pixels


GRAY = PIL.Image.fromarray(PHOTO).convert("L")
KEPT: dict[str, bytes] = {
    "jpeg 4:2:0": saved(PHOTO, "JPEG", subsampling="4:2:0"),
    "jpeg 4:4:4 progressive": saved(PHOTO, "JPEG", subsampling="4:4:4", progressive=True),
    "jpeg gray": saved(GRAY, "JPEG"),
    "jpeg with trailing bytes": saved(PHOTO, "JPEG") + b"tail" * 50,
    "mpo": saved(PHOTO, "MPO", save_all=True, append_images=[GRAY.convert("RGB")]),
    "png": saved(PHOTO, "PNG"),
    "png gray": saved(GRAY, "PNG"),
    "png with gamma": png(PHOTO, 2, png_chunk(b"gAMA", struct.pack(">I", 100000))),
    "bmp": saved(PHOTO, "BMP"),
    "tiff": saved(PHOTO, "TIFF"),
    "tiff gray lzw": saved(GRAY, "TIFF", compression="tiff_lzw"),
    "tiff deflate": saved(PHOTO, "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": saved(PHOTO, "TIFF", compression="packbits"),
    "webp": saved(PHOTO, "WEBP", quality=60),
    "webp lossless": saved(PHOTO, "WEBP", lossless=True),
}


@pytest.mark.parametrize("data", KEPT.values(), ids=KEPT.keys())
def test_bytes_that_all_decoders_read_alike_are_kept(data: bytes) -> None:
    dali_types = pytest.importorskip("nvidia.dali.types", reason="DALI is not installed")
    from nvidia.dali import fn, pipeline_def

    picture, pixels = read(data)
    assert picture.converted == ()

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def decode() -> Any:
        source = fn.external_source(source=lambda: [np.frombuffer(picture.data, np.uint8)])
        return fn.decoders.image(source, device="cpu", output_type=dali_types.RGB, adjust_orientation=False)

    pipeline = decode()
    pipeline.build()
    (found,) = pipeline.run()
    np.testing.assert_array_equal(np.array(found.at(0)), pixels)


TURNS: dict[int, Callable[[Image], Image]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("file_format", "options"),
    [("JPEG", {"quality": 95}), ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {})],
)
def test_orientation_is_applied_once(orientation: int, file_format: str, options: dict[str, Any]) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    upright = read_picture(saved(PHOTO, file_format, **options), MAX_PIXELS)
    before = decode_image(upright.data, upright.extension)
    picture, pixels = read(saved(PHOTO, file_format, exif=exif, **options))
    assert picture.converted == ("orientation",)
    np.testing.assert_array_equal(pixels, TURNS[orientation](before))


def test_orientation_1_and_nonsense_are_upright() -> None:
    for value in (1, 0, 9, 77):
        exif = PIL.Image.Exif()
        exif[0x0112] = value
        assert read(saved(PHOTO, "JPEG", exif=exif))[0].converted == ()


def test_gray_is_repeated() -> None:
    _, pixels = read(saved(GRAY, "PNG"))
    np.testing.assert_array_equal(pixels, np.repeat(np.asarray(GRAY)[..., None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_rounded(file_format: str) -> None:
    values = np.linspace(0, 65535, 40 * 50).astype(np.uint16).reshape(40, 50)
    picture, pixels = read(saved(values, file_format))
    assert picture.converted == ("16 bit",)
    np.testing.assert_array_equal(pixels[..., 0], np.floor(values.astype(float) * 255 / 65535 + 0.5))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_16_bit_colour_keeps_the_high_byte() -> None:
    values = (np.arange(20 * 20 * 3) * 54).astype(np.uint16).reshape(20, 20, 3)
    picture, pixels = read(png(values, 2))
    assert picture.converted == ("16 bit",)
    np.testing.assert_array_equal(pixels, values >> 8)


def test_alpha_is_laid_over_white() -> None:
    rgba = PIL.Image.fromarray(PHOTO).convert("RGBA")
    picture, pixels = read(saved(rgba, "PNG"))
    assert picture.converted == ("alpha",)
    np.testing.assert_array_equal(pixels, PHOTO)
    alpha = np.full(PHOTO.shape[:2], 255, np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 0, 128
    rgba.putalpha(PIL.Image.fromarray(alpha))
    for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        picture, pixels = read(saved(rgba, file_format, **options))
        assert picture.converted == ("alpha",)
        assert (pixels[:, :10] == 255).all()
        expected = np.round((PHOTO[:, 10:20].astype(float) * 128 + 255.0 * 127) / 255)
        assert np.abs(pixels[:, 10:20] - expected).max() <= 1
        np.testing.assert_array_equal(pixels[:, 20:], PHOTO[:, 20:])


def test_a_transparent_colour_is_white() -> None:
    pixels16 = np.full((4, 4), 30000, np.uint16)
    pixels16[0] = 7
    for data, reasons in (
        (png(pixels16, 0, png_chunk(b"tRNS", struct.pack(">H", 7))), ("alpha", "16 bit")),
        (png((pixels16 >> 8).astype(np.uint8), 0, png_chunk(b"tRNS", struct.pack(">H", 0))), ("alpha",)),
    ):
        picture, pixels = read(data)
        assert picture.converted == reasons
        assert (pixels[0] == 255).all()
        assert (pixels[1:] == 117).all()


def test_palette_and_bilevel() -> None:
    palette = PIL.Image.fromarray(PHOTO).quantize(16)
    for file_format in ("PNG", "BMP", "TIFF"):
        picture, pixels = read(saved(palette, file_format))
        assert picture.converted == ("palette",)
        np.testing.assert_array_equal(pixels, np.asarray(palette.convert("RGB")))
    for file_format in ("PNG", "BMP", "TIFF"):
        picture, pixels = read(saved(GRAY.convert("1"), file_format))
        assert picture.converted == ("bilevel",)
        assert set(np.unique(pixels)) == {0, 255}
    palette.info["transparency"] = 0
    assert read(saved(palette, "PNG"))[0].converted == ("alpha", "palette")


def test_cmyk_becomes_rgb() -> None:
    flat = PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for file_format in ("JPEG", "TIFF"):
        picture, pixels = read(saved(flat, file_format))
        assert picture.converted == ("cmyk",)
        assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3
    data = saved(PIL.Image.fromarray(PHOTO).convert("CMYK"), "JPEG")
    with pytest.raises(DataError):
        read(data[: len(data) // 2])


def test_the_first_frame_is_taken() -> None:
    other = PIL.Image.fromarray(255 - PHOTO)
    for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = saved(PHOTO, file_format, save_all=True, append_images=[other], **options)
        picture, pixels = read(data)
        assert picture.converted == ("first frame",)
        np.testing.assert_array_equal(pixels, PHOTO)


@pytest.mark.parametrize("options", [{"compression": "jpeg"}, {"compression": "zstd"}])
def test_rare_layouts_are_rewritten(options: dict[str, Any]) -> None:
    data = saved(PHOTO, "TIFF", **options)
    picture, pixels = read(data)
    assert picture.converted == ("layout",)
    with PIL.Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(pixels, np.asarray(opened))


def test_32_bit_bmp_is_rewritten() -> None:
    picture, pixels = read(saved(PIL.Image.fromarray(PHOTO).convert("RGBA"), "BMP"))
    assert picture.converted == ("layout",)
    np.testing.assert_array_equal(pixels, PHOTO)


def test_profiles() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(saved(PHOTO, "JPEG", icc_profile=srgb))[0].converted == ()
    picture, _ = read(saved(PHOTO, "JPEG", icc_profile=b"nonsense"))
    assert (picture.converted, picture.notes) == ((), ("unusable ICC profile",))
    # a profile for colour on a gray picture says nothing about it
    assert read(saved(GRAY, "JPEG", icc_profile=srgb))[0].notes == ("unusable ICC profile",)
    # red and blue exchanged: swap the names of the two colorant tags inside the profile
    swapped = srgb.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    picture, pixels = read(saved(red, "PNG", icc_profile=swapped))
    assert (picture.converted, picture.notes) == ((), (PROFILE_NOTE,))
    np.testing.assert_array_equal(pixels, red)
    picture, pixels = read(saved(red, "PNG", icc_profile=swapped), convert_profiles=True)
    assert picture.converted == ("icc profile",)
    assert np.abs(pixels.astype(int) - (0, 0, 200)).max() <= 2


def test_the_content_decides_not_the_name() -> None:
    picture, _ = read(saved(PHOTO, "PNG"))
    assert (picture.source_format, picture.extension) == ("png", "png")


BOMB = saved(np.zeros((1, 1, 3), np.uint8), "PNG")
BOMB = BOMB[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)) + BOMB[33:]
TWELVE_BIT = bytearray(saved(PHOTO, "JPEG"))
TWELVE_BIT[TWELVE_BIT.index(b"\xff\xc0") + 4] = 12
FLIPPED = bytearray(saved(PHOTO, "PNG"))
FLIPPED[len(FLIPPED) // 2] ^= 4
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"I am no picture at all\n", "not JPEG, PNG"),
    "gif": (saved(PIL.Image.fromarray(PHOTO).convert("P"), "GIF"), "GIF"),
    "heif": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
    "jpeg mark only": (b"\xff\xd8\xff\xe0", "damaged JPEG"),
    "truncated jpeg": (saved(PHOTO, "JPEG")[:-60], "JPEG"),
    "truncated gray jpeg": (saved(GRAY, "JPEG")[:-60], "JPEG"),
    "truncated png": (saved(PHOTO, "PNG")[:-200], "truncated"),
    "flipped png": (bytes(FLIPPED), "checksum"),
    "truncated bmp": (saved(PHOTO, "BMP")[:-200], "truncated"),
    "truncated tiff": (saved(PHOTO, "TIFF")[:3000], "TIFF"),
    "truncated webp": (saved(PHOTO, "WEBP")[:-200], "WEBP"),
    "12-bit jpeg": (bytes(TWELVE_BIT), "damaged JPEG"),
    "bomb": (BOMB, "bomb"),
    "float tiff": (saved(GRAY.convert("F"), "TIFF"), "floating"),
    "too long a side": (saved(np.zeros((1, 65501, 3), np.uint8), "PNG"), "65500"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_picture(data, MAX_PIXELS)


def test_more_pixels_than_allowed() -> None:
    with pytest.raises(DataError, match="56 x 40 pixels are more than 2239"):
        read_picture(saved(PHOTO, "JPEG"), 2239)
    assert read_picture(saved(PHOTO, "JPEG"), 2240).width == 56


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_quality_of_a_jpeg_is_read_off_its_tables(quality: int) -> None:
    for data in (
        saved(PHOTO, "JPEG", quality=quality, subsampling="4:2:0"),
        simplejpeg.encode_jpeg(PHOTO, quality=quality, colorspace="RGB", colorsubsampling="422"),
        saved(GRAY, "JPEG", quality=quality),
    ):
        history = read_picture(data, MAX_PIXELS).jpeg
        assert history is not None
        assert (history.quality, history.standard) == (quality, True)


def test_the_history_of_other_jpegs() -> None:
    tables = [[quantum + 3 for quantum in range(1, 65)], [60] * 64]
    for subsampling, name in (("4:2:0", "420"), ("4:2:2", "422"), ("4:4:4", "444")):
        history = read_picture(
            saved(PHOTO, "JPEG", qtables=tables, subsampling=subsampling, progressive=True), MAX_PIXELS
        ).jpeg
        assert history is not None
        assert (history.standard, history.subsampling, history.progressive) == (False, name, True)
        assert history.luminance_sum == sum(tables[0])
    for name in ("411", "440"):
        data = simplejpeg.encode_jpeg(PHOTO, quality=80, colorspace="RGB", colorsubsampling=name)
        history = read_picture(data, MAX_PIXELS).jpeg
        assert history is not None
        assert history.subsampling == name
    assert read_picture(saved(PHOTO, "PNG"), MAX_PIXELS).jpeg is None
    gray = read_picture(saved(GRAY, "JPEG"), MAX_PIXELS).jpeg
    assert gray is not None
    assert gray.subsampling == "gray"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damage_never_escapes() -> None:
    """Thousands of mutated files: each is read or refused, nothing else; what is read can be decoded again."""
    draw = random.Random(5)
    rgba = PIL.Image.fromarray(PHOTO).convert("RGBA")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    seeds = [
        *KEPT.values(),
        saved(PHOTO, "JPEG", exif=exif, icc_profile=b"x" * 300),
        saved(PHOTO, "TIFF", exif=exif),
        saved(rgba, "WEBP"),
        saved(rgba.quantize(8), "PNG"),
        saved(PIL.Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
        saved(PHOTO, "TIFF", compression="jpeg"),
    ]
    read_ones = refused = 0
    for number in range(3000):
        data = bytearray(seeds[number % len(seeds)])
        if number % 5 == 0:
            del data[draw.randrange(len(data)) :]
        span = len(data) if number % 2 else min(len(data), 300)
        for _ in range(draw.choice((1, 2, 8)) if data else 0):
            data[draw.randrange(span)] = draw.choice((0, 1, 128, 255, draw.randrange(256)))
        try:
            read(bytes(data))
            read_ones += 1
        except DataError:
            refused += 1
    assert read_ones > 100
    assert refused > 1000
