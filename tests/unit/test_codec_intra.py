"""What the video codecs share: a picture in limla's container, its sides, its colours, and streams that are not it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from limla.codecs import build_codec
from limla.codecs.bits import BitReader, nal_units
from limla.codecs.container import read_whole, write_container
from limla.codecs.intra import IntraCodec
from limla.codecs.rgb import to_rgb
from limla.codecs.ycbcr import Planes, to_planes
from limla.errors import DataError, SettingsError
from limla.metrics import psnr_db, rate_bpp
from limla.statistics.rate_curves import bd_metrics
from limla.types import Image
from tests.catalogue import decodes_or_data_error, qualities
from tests.conftest import natural_like

NAMES = ("h264", "hevc", "av1")


def video_codec(name: str) -> IntraCodec:
    codec = build_codec(name)
    assert isinstance(codec, IntraCodec)
    return codec


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> IntraCodec:
    return video_codec(request.param)


def middle(codec: IntraCodec) -> int:
    return (codec.scale.lowest + codec.scale.highest) // 2


def body_of(codec: IntraCodec, image: Image, quality: int | None = None) -> bytes:
    """The video stream alone."""
    data = codec.encode(image, middle(codec) if quality is None else quality)
    return bytes(read_whole(data, codec.name).body)


def test_any_player_of_the_codec_reads_the_body_and_its_colours(codec: IntraCodec) -> None:
    image = natural_like(40, 56)
    context = av.CodecContext.create(codec.decoder, "r")
    assert isinstance(context, av.VideoCodecContext)
    frames = [*context.decode(av.Packet(body_of(codec, image))), *context.decode(None)]
    (frame,) = frames
    assert (frame.height, frame.width) == (40, 56)
    assert frame.format.name in ("yuv420p", "yuvj420p")
    assert frame.color_range == 2  # full
    assert frame.colorspace == 5  # BT.601
    assert frame.color_primaries == 1  # BT.709, as sRGB
    assert frame.color_trc == 13  # sRGB


def test_the_encoder_does_not_write_about_itself(codec: IntraCodec) -> None:
    body = body_of(codec, np.full((16, 16, 3), 128, np.uint8))
    assert not any(word in body for word in (b"x264", b"x265", b"options"))
    assert len(body) < 110  # headers, and next to nothing


def test_the_smallest_side_is_the_encoders_own(codec: IntraCodec) -> None:
    quality = middle(codec)
    assert codec.padded_sides(1, 1) == (codec.shortest_side, codec.shortest_side)
    if codec.shortest_side > 2:
        side = codec.shortest_side - 2
        planes = Planes(*(np.zeros((n, n), np.uint8) for n in (side, side // 2, side // 2)))
        with pytest.raises(SettingsError, match=f"does not take a picture of {side} × {side} pixels"):
            codec._encode_planes(planes, quality)


def test_long_images_are_coded_and_longer_ones_refused(codec: IntraCodec) -> None:
    quality = codec.scale.highest
    for shape in ((1, codec.most_columns), (codec.most_rows, 3), (5, 4216), (4217, 5), (2, 4218)):
        image = np.full((*shape, 3), 77, np.uint8)
        assert np.abs(codec.decode(codec.encode(image, quality)).astype(int) - 77).max() <= 12
    for shape in ((1, codec.most_columns + 1), (codec.most_rows + 1, 1)):
        with pytest.raises(
            SettingsError, match=rf"{max(shape)} pixels is too .* for {codec.name}: at most \d+"
        ):
            codec.encode(np.zeros((*shape, 3), np.uint8), quality)


def test_an_odd_image_is_the_even_one_with_its_last_pixels_repeated(codec: IntraCodec) -> None:
    image = natural_like(33, 47)
    larger = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
    assert body_of(codec, image) == body_of(codec, larger)
    quality = middle(codec)
    decoded, whole = (codec.decode(codec.encode(each, quality)) for each in (image, larger))
    assert np.array_equal(decoded, whole[:33, :47])


def test_every_quality_of_the_scale_is_better_than_the_last(codec: IntraCodec) -> None:
    images = [natural_like(96, 128, seed) for seed in range(3)]
    rates, distortions = [], []
    for quality in codec.scale.from_worst():
        files = [codec.encode(image, quality) for image in images]
        rates.append(sum(map(len, files)))
        distortions.append(
            sum(psnr_db(image, codec.decode(data)) for image, data in zip(images, files, strict=True))
        )
    assert (np.diff(rates) > 0).all(), rates
    assert (np.diff(distortions) > 0).all(), distortions


def test_the_settings_are_what_the_encoder_is_told(codec: IntraCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, image = codec.settings(), natural_like(48, 64)
    assert {"preset", "subsampling", "encoder"} <= set(settings)
    assert sum("{quality}" in str(value) for value in settings.values()) == 1
    expected = codec.encode(image, middle(codec))
    fixed = {option: value.replace("{quality}", str(middle(codec))) for option, value in codec.pinned.items()}
    monkeypatch.setattr(type(codec), "pinned", fixed)
    assert codec.encode(image, codec.scale.lowest) == expected


def test_the_version_names_pyav_and_the_encoder(codec: IntraCodec) -> None:
    said = {"h264": r"x264 core \d", "hevc": r"x265 \(build \d+\) - \d", "av1": "SVT-AV1"}[codec.name]
    version = codec.version()
    assert version.startswith(f"PyAV {av.__version__}, libavcodec ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "__version__", "0")
        assert codec.version() != version
    assert re.search(said, version)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_written_to_the_terminal(name: str) -> None:
    program = (
        "import numpy as np\nfrom limla.codecs import build_codec\n"
        "from limla.codecs.container import read_whole, write_container\n"
        f"codec = build_codec('{name}')\n"
        "for side in (1, 20, 70):\n"
        "    data = codec.encode(np.zeros((side, side, 3), np.uint8), 30)\n"
        "    codec.decode(data)\n"
        "    try:\n"
        "        body = bytes(read_whole(data, codec.name).body)\n"
        "        codec.decode(write_container(codec.name, side, side, body[:-4] + bytes(2)))\n"
        "    except ValueError:\n"
        "        pass\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SVT_LOG"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def steps_beside(work: Callable[[], object]) -> int:
    """How far this thread counts while another one works."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: (work(), done.set()))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # or asking for the GIL takes as long as the work
    try:
        thread.start()
        steps = 0
        while not done.is_set():
            steps += 1
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    return steps


def test_other_threads_go_on_while_one_encodes(codec: IntraCodec) -> None:
    image, numbers = natural_like(400, 500), list(np.random.default_rng(0).random(100_000))
    codec.encode(image, middle(codec))
    # the best of a few: a busy machine may not let this thread run at all
    beside = max(steps_beside(lambda: codec.encode(image, middle(codec))) for _ in range(4))
    assert beside > 3 * max(steps_beside(lambda: sorted(numbers)) for _ in range(4))  # which holds the GIL


@pytest.mark.parametrize("name", NAMES)
def test_no_memory_is_left_behind(name: str) -> None:
    # in a process of its own: other tests' threads take and give back memory meanwhile
    program = (
        "import gc, os\nfrom pathlib import Path\nfrom limla.codecs import build_codec\n"
        "from tests.conftest import natural_like\n"
        f"codec, image = build_codec('{name}'), natural_like(200, 300)\n"
        "def code(times):\n"
        "    for _ in range(times):\n"
        "        codec.decode(codec.encode(image, codec.scale.highest))\n"
        "    gc.collect()\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGESIZE') / 2**20\n"
        "before = code(10)\n"
        "print(code(60) - before)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, check=True)
    assert float(done.stdout) < 12  # a context takes megabytes, 60 pictures ten


# Streams that are not the container's picture


def test_a_stream_of_another_size_is_refused_before_it_is_decoded(
    codec: IntraCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = body_of(codec, np.zeros((1200, 1600, 3), np.uint8), codec.scale.highest)
    monkeypatch.setattr(IntraCodec, "_decode_planes", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match="40 × 56 pixels around a picture of 1200 × 1600"):
        codec.decode(write_container(codec.name, 40, 56, large))


def test_the_decoder_too_refuses_a_larger_picture(codec: IntraCodec) -> None:
    """What a header deeper in a stream would meet."""
    large = body_of(codec, np.zeros((1200, 1600, 3), np.uint8), codec.scale.highest)
    with pytest.raises(DataError, match="not a decodable"):
        codec._decode_planes(large, 40, 56)


def test_two_pictures_are_refused(codec: IntraCodec) -> None:
    body = body_of(codec, natural_like(40, 56))
    with pytest.raises(DataError, match="not one picture"):
        codec.decode(write_container(codec.name, 40, 56, body + body))


def test_another_codecs_stream_is_refused(codec: IntraCodec) -> None:
    for name in set(NAMES) - {codec.name}:
        body = body_of(video_codec(name), natural_like(40, 56))
        with pytest.raises(DataError):
            codec.decode(write_container(codec.name, 40, 56, body))


UNITS = {"h264": b"\0\0\1x", "hevc": b"\0\0\1\x40", "av1": b"\x12\x00"}
"""The shortest of each codec."""


def test_a_flood_of_units_is_refused_at_once(codec: IntraCodec) -> None:
    """Each unit of a few bytes would take a hundred times as much."""
    data = write_container(codec.name, 16, 16, UNITS[codec.name] * 200_000)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than 8 units, which is not one picture"):
            codec.decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(data)


def test_a_header_is_read_no_further_than_one_is_long() -> None:
    """A number of Python's as long as a file would be shifted for each bit."""
    reader = BitReader(bytes(1_000_000))
    for _ in range(256):
        assert reader.bits(32) == 0
    with pytest.raises(DataError, match="cut off"):
        reader.bits(1)


def test_headers_that_are_cut_off_are_refused(codec: IntraCodec) -> None:
    body = body_of(codec, natural_like(40, 56))
    for length in range(50):
        with pytest.raises(DataError):
            codec.decode(write_container(codec.name, 40, 56, body[:length]))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=8),
    near_the_start=st.booleans(),
)
def test_a_damaged_body_with_a_right_checksum(
    name: str, changes: list[tuple[int, int]], near_the_start: bool
) -> None:
    codec = video_codec(name)
    body = bytearray(body_of(codec, natural_like(40, 56, seed=9)))
    for place, value in changes:
        body[place % (min(100, len(body)) if near_the_start else len(body))] = value
    decodes_or_data_error(codec.decode, write_container(name, 40, 56, bytes(body)))


# Colours


def upsampled(plane: np.ndarray) -> np.ndarray:
    """Twice the rows and columns by the triangle filter, in whole numbers as libjpeg's."""
    rows = sliding_window_view(np.pad(plane.astype(int), ((1, 1), (0, 0)), mode="edge"), 3, axis=0)
    tall = np.stack([3 * rows[..., 1] + rows[..., 0], 3 * rows[..., 1] + rows[..., 2]], axis=1)
    tall = tall.reshape(-1, plane.shape[1])
    columns = sliding_window_view(np.pad(tall, ((0, 0), (1, 1)), mode="edge"), 3, axis=1)
    left, right = 3 * columns[..., 1] + columns[..., 0] + 8, 3 * columns[..., 1] + columns[..., 2] + 7
    return (np.stack([left, right], axis=2) >> 4).reshape(len(tall), -1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 21), width=st.integers(1, 21), seed=st.integers(0, 99))
@example(height=1, width=1, seed=0)
def test_planes_become_rgb_by_the_triangle_filter_and_jfifs_matrix(height: int, width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, columns = -(-height // 2), -(-width // 2)
    wide = generator.integers(0, 256, (3, 2 * rows, 2 * columns + 5), np.uint8)
    planes = Planes(wide[0][:, : 2 * columns], wide[1][:rows, :columns], wide[2][:rows, :columns])
    found = to_rgb(planes, height, width)
    blue, red = (upsampled(plane)[:height, :width] - 128.0 for plane in (planes.cb, planes.cr))
    luma = planes.y[:height, :width].astype(float)
    wanted = np.stack(
        [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1
    )
    assert np.abs(found - np.clip(wanted, 0, 255)).max() <= 0.51


def test_planes_there_and_back_are_as_near_as_the_best_jpeg() -> None:
    image = natural_like(123, 161, seed=4)
    back = to_rgb(to_planes(image, 2, 2), 123, 161)
    jpeg = build_codec("jpeg")
    best = jpeg.decode(jpeg.encode(image, 100))
    assert psnr_db(image, back) >= psnr_db(image, best)
    assert psnr_db(best, back) > 40


# Bits


def test_exp_golomb_numbers_are_the_standards() -> None:
    numbers = "1 010 011 00100 00111 0001000 101".replace(" ", "")
    reader = BitReader(int(numbers.ljust(32, "1"), 2).to_bytes(4, "big"))
    assert [reader.exp_golomb() for _ in range(6)] == [0, 1, 2, 3, 6, 7]
    assert reader.bits(3) == 0b101
    assert reader.bits(5) == 0b11111
    with pytest.raises(DataError, match="cut off"):
        reader.bits(1)
    with pytest.raises(DataError, match="too long"):
        BitReader(bytes(30)).exp_golomb()


def test_units_are_found_with_either_start_code() -> None:
    units = nal_units(b"\0\0\0\1ab\0\0\1c\0\0\0\1d")
    assert [unit.data for unit in units] == [b"ab", b"c", b"d"]
    assert [(unit.begin, unit.end) for unit in units] == [(0, 6), (6, 10), (10, 15)]
    for wrong in (b"", b"ab", b"a\0\0\1b", b"\0\0\1", b"\0\0\1\0\0\1a"):
        with pytest.raises(DataError):
            nal_units(wrong)


# Real photos


def test_photos_need_fewer_bits_than_webp_and_jpeg(flowers: Path) -> None:
    """The published order, at equal PSNR: HEVC < H.264 < WebP < JPEG, and AV1 < WebP."""
    paths = sorted(flowers.glob("*/*.jpg"))[5::1500][:2]
    curves: dict[str, list[tuple[list[float], list[float]]]] = {}
    for name in ("jpeg", "webp", *NAMES):
        codec = build_codec(name)
        for path in paths:
            image = np.array(PIL.Image.open(path).convert("RGB"))
            steps = qualities(codec, 11)[1:-1:2]
            files = [codec.encode(image, quality) for quality in steps]
            curves.setdefault(name, []).append(
                (
                    [rate_bpp(len(data), *image.shape[:2]) for data in files],
                    [psnr_db(image, codec.decode(data)) for data in files],
                )
            )

    def saved(name: str, reference: str) -> float:
        """Mean BD-rate in %."""
        pairs = zip(curves[reference], curves[name], strict=True)
        found = [bd_metrics(*a, *b, min_overlap=0.2).bd_rate_percent for a, b in pairs]
        numbers = [number for number in found if number is not None]
        assert len(numbers) == len(found)
        return float(np.mean(numbers))

    assert saved("h264", "jpeg") < saved("webp", "jpeg") < -15
    assert saved("hevc", "h264") < -5
    assert saved("av1", "webp") < -5
