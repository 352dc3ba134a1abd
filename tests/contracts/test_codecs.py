"""What every codec of the catalogue must do. What is particular to one is in tests/unit/test_codec_<name>.py."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import build_codec
from limla.codecs.base import Codec, encode_each
from limla.codecs.container import EXTENSION, read_whole, write_container
from limla.errors import DataError, SettingsError, UnknownNameError
from limla.metrics import psnr_db
from limla.registry import CODECS
from limla.types import Image
from tests.catalogue import BEST_PSNR_DB, SHAPES, catalogue_codec, decodes_or_data_error, qualities
from tests.conftest import natural_like


@pytest.fixture(params=CODECS.names())
def codec(request: pytest.FixtureRequest) -> Codec:
    """Every codec of the catalogue with its own defaults."""
    return catalogue_codec(request.param)


def middle(codec: Codec) -> int:
    """A quality in the middle of the scale."""
    numbers = codec.scale.from_worst()
    return numbers[len(numbers) // 2]


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_and_dtype_survive(codec: Codec, shape: tuple[int, int]) -> None:
    image = natural_like(*shape, seed=1)
    for quality in qualities(codec, 4):
        data = codec.encode(image, quality)
        assert type(data) is bytes
        decoded = codec.decode(data)
        assert decoded.shape == (*shape, 3)
        assert decoded.flags.writeable
        assert decoded.dtype == np.uint8
        assert np.array_equal(codec.decode(memoryview(data)), decoded)


def test_the_best_quality_is_near_the_image(codec: Codec) -> None:
    image = natural_like(120, 160, seed=2)
    gray = np.repeat(image[..., :1], 3, axis=2)
    best = qualities(codec, 2)[-1]
    # noise-like colour may be halved in resolution; gray may not
    of_colour, of_gray = BEST_PSNR_DB.get(codec.name, (30, 40))
    assert psnr_db(image, codec.decode(codec.encode(image, best))) > of_colour
    assert psnr_db(gray, codec.decode(codec.encode(gray, best))) > of_gray


def test_gray_content_stays_gray(codec: Codec) -> None:
    luma = natural_like(40, 50, seed=3)[..., :1]
    decoded = codec.decode(codec.encode(np.repeat(luma, 3, axis=2), qualities(codec, 2)[-1]))
    assert np.ptp(decoded.astype(int), axis=2).max() <= 1


def test_a_large_image(codec: Codec) -> None:
    image = np.tile(natural_like(300, 500, seed=4), (7, 6, 1))
    assert codec.decode(codec.encode(image, middle(codec))).shape == (2100, 3000, 3)


def test_equal_input_gives_equal_bytes(codec: Codec) -> None:
    image = natural_like(61, 83, seed=5)
    other = catalogue_codec(codec.name)
    for quality in qualities(codec, 3):
        assert (
            codec.encode(image, quality) == codec.encode(image.copy(), quality) == other.encode(image, quality)
        )


def test_the_layout_in_memory_does_not_matter(codec: Codec) -> None:
    image = natural_like(40, 60, seed=6)
    quality = middle(codec)
    expected = codec.encode(image, quality)
    fortran = np.asfortranarray(image)
    strided = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)[::2, ::2]
    flipped = image[::-1, ::-1].copy()[::-1, ::-1]
    read_only = image.copy()
    read_only.setflags(write=False)
    assert not any(view.flags.c_contiguous for view in (fortran, strided, flipped))
    for view in (fortran, strided, flipped, read_only):
        assert codec.encode(view, quality) == expected


@pytest.mark.parametrize("shape", [*SHAPES, (50, 64)])
def test_several_qualities_at_once_are_the_bytes_of_each(codec: Codec, shape: tuple[int, int]) -> None:
    image = natural_like(*shape, seed=10)
    before = image.copy()
    steps = [*qualities(codec, 9), *qualities(codec, 2)]  # some twice, not in order
    expected = [codec.encode(image, quality) for quality in steps]
    assert encode_each(codec, image, steps) == expected
    assert np.array_equal(image, before)
    assert encode_each(codec, np.asfortranarray(image), steps) == expected
    image.setflags(write=False)
    assert encode_each(codec, image, steps) == expected
    assert encode_each(codec, image, []) == []


def test_several_qualities_at_once_refuse_what_one_refuses(codec: Codec) -> None:
    image = natural_like(8, 8)
    for wrong in (codec.scale.lowest - 1, codec.scale.highest + 1):
        with pytest.raises(SettingsError, match=f"choose {codec.scale.lowest} to {codec.scale.highest}"):
            encode_each(codec, image, [codec.scale.lowest, wrong])


def test_the_input_is_left_alone(codec: Codec) -> None:
    image = natural_like(40, 60, seed=7)
    before = image.copy()
    codec.encode(image, middle(codec))
    assert np.array_equal(image, before)


def test_a_quality_out_of_range_names_the_range(codec: Codec) -> None:
    image = natural_like(8, 8)
    for quality in (codec.scale.lowest - 1, codec.scale.highest + 1, -1000, 10**6):
        with pytest.raises(SettingsError, match=f"choose {codec.scale.lowest} to {codec.scale.highest}"):
            codec.encode(image, quality)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint16),
    ],
    ids=lambda image: f"{image.shape}-{image.dtype}",
)
def test_what_is_no_image_is_refused(codec: Codec, image: Image) -> None:
    with pytest.raises(ValueError, match="uint8"):
        codec.encode(image, codec.scale.highest)


def test_rate_and_psnr_grow_with_quality(codec: Codec) -> None:
    steps = qualities(codec, 12)
    rates = np.zeros(len(steps))
    distortions = np.zeros(len(steps))
    for seed in range(4):
        image = natural_like(128, 160, seed=seed)
        for number, quality in enumerate(steps):
            data = codec.encode(image, quality)
            rates[number] += len(data)
            distortions[number] += psnr_db(image, codec.decode(data))
    assert (np.diff(rates) > 0).all(), rates
    assert (np.diff(distortions) > 0).all(), distortions


def test_threads_do_not_disturb_each_other(codec: Codec) -> None:
    images = [natural_like(50 + number, 70, seed=number) for number in range(8)]
    steps = qualities(codec, 4)
    expected = [[codec.encode(image, quality) for quality in steps] for image in images]
    pixels = [[codec.decode(data) for data in files] for files in expected]
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        start.wait()
        for _ in range(10):
            found = [codec.encode(images[number], quality) for quality in steps]
            decoded = [codec.decode(data) for data in found]
            if found != expected[number] or not all(map(np.array_equal, decoded, pixels[number])):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_what_decides_the_bytes_is_recorded(codec: Codec) -> None:
    assert codec.settings()
    assert all(isinstance(value, str | int | bool) for value in codec.settings().values())
    assert any(digit in codec.version() for digit in "0123456789")
    assert codec.extension.isalnum()
    assert CODECS.load(codec.name).name == codec.name


def test_a_codec_pickles(codec: Codec) -> None:
    copy = pickle.loads(pickle.dumps(codec))
    image = natural_like(20, 30)
    assert copy.encode(image, codec.scale.highest) == codec.encode(image, codec.scale.highest)


def test_damaged_data_is_a_data_error(codec: Codec) -> None:
    data = codec.encode(natural_like(64, 64, seed=8), middle(codec))
    for broken in (b"", b"\0", b"not an image at all", data[:10], data[:-20], data[: len(data) // 2], data[1:]):
        with pytest.raises(DataError):
            codec.decode(broken)


@pytest.mark.parametrize("name", CODECS.names())
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.floats(0.01, 1),
)
def test_mutated_data_decodes_or_is_a_data_error(
    name: str, changes: list[tuple[float, int]], length: float
) -> None:
    codec = catalogue_codec(name)
    whole = codec.encode(natural_like(40, 56, seed=9), middle(codec))
    contents = read_whole(whole, name) if codec.extension == EXTENSION else None
    data = bytearray(contents.body if contents else whole)
    for place, value in changes:
        data[int(place * len(data))] = value
    mutated = bytes(data[: max(1, int(length * len(data)))])
    # the container's checksums would catch all of it; they are made right
    decodes_or_data_error(codec.decode, write_container(name, 40, 56, mutated) if contents else mutated)


@pytest.mark.parametrize("name", CODECS.names())
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200))
def test_noise_is_a_data_error(name: str, data: bytes) -> None:
    with pytest.raises(DataError):
        catalogue_codec(name).decode(data)


def test_an_unknown_codec_or_knob_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown codec 'jepg'; known: jpeg.* Did you mean 'jpeg'\?"):
        build_codec("jepg")
    with pytest.raises(SettingsError, match="codec 'jpeg' has no setting 'effort'; known: subsampling"):
        build_codec("jpeg", effort=4)
    with pytest.raises(SettingsError, match="unknown chroma subsampling '411'; known: 420, 422, 444"):
        build_codec("jpeg", subsampling="411")
