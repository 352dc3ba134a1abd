"""What is particular to the svd codec; what every codec must do is in tests/contracts."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import threadpoolctl

from limla.codecs import build_codec, svd
from limla.codecs.blas import one_blas_thread
from limla.codecs.container import read_container, read_whole, write_container
from limla.codecs.jpeg import JpegCodec
from limla.codecs.svd import SvdCodec, factorise
from limla.errors import DataError
from limla.metrics import psnr_db, rate_bpp
from limla.types import Image
from tests.catalogue import SHAPES, decodes_or_data_error
from tests.conftest import natural_like

CODEC = SvdCodec()
HEAD = 6 + 3 + 4
"""Bytes of the body before the first layer, of an image of one tile."""


def held_at_each_cut(data: bytes) -> dict[int, Image]:
    """Rank → image over places where a file may be cut off, every layer's edges among them; checks that ranks grow."""
    body = bytes(read_container(data).body)
    place = len(data) - len(body) + HEAD
    edges = [place]
    for payload in layers(body)[1]:
        place += 7 + len(payload)
        edges += [place - 1, place]
    images: dict[int, Image] = {}
    before = -1
    for length in sorted({*range(60), *range(0, len(data), 101), *edges}):
        try:
            prefix = CODEC.decode_prefix(data[:length])
        except DataError:
            assert before == -1, f"refused at {length}, and read when shorter"
            continue
        assert before <= prefix.held <= prefix.whole
        assert images.setdefault(prefix.held, prefix.image).shape == prefix.image.shape
        assert np.array_equal(images[prefix.held], prefix.image)
        before = prefix.held
    return images


def layers(body: bytes, blocks: int = 3) -> tuple[bytes, list[bytes]]:
    """The head of a body without its checksum, and the payloads."""
    end = 6 + blocks
    place, payloads = end + 4, []
    while place < len(body):
        length = int.from_bytes(body[place : place + 3], "big")
        payloads.append(body[place + 7 : place + 7 + length])
        place += 7 + length
    return body[:end], payloads


def file_of(height: int, width: int, head: bytes, payloads: list[bytes]) -> bytes:
    """A file whose checksums are all right, whatever is in it."""
    parts = [head, struct.pack(">I", zlib.crc32(head))]
    for payload in payloads:
        length = len(payload).to_bytes(3, "big")
        parts += [length, struct.pack(">I", zlib.crc32(length + payload)), payload]
    return write_container("svd", height, width, b"".join(parts))


@pytest.mark.parametrize("shape", [(20, 30), (30, 30), (1, 7), (64, 500)])
def test_no_matrix_of_that_rank_is_nearer(shape: tuple[int, int]) -> None:
    """Eckart & Young 1936: the error of the first k terms is the sum of squares of the singular values left out."""
    matrix = natural_like(*shape, seed=1)[..., 1].astype(np.float64) - 128
    factors = factorise(matrix)
    expected = np.linalg.svd(matrix, compute_uv=False)
    assert np.allclose(factors.values, expected, atol=1e-6 * expected[0])
    assert np.allclose(factors.left.T @ factors.left, np.eye(shape[0]), atol=1e-10)
    for rank in range(0, shape[0] + 1, 5):
        left = factors.left[:, :rank]
        error = np.square(matrix - left @ (left.T @ matrix)).sum()
        assert error == pytest.approx(np.square(expected[rank:]).sum(), rel=1e-6, abs=1e-6 * expected[0])


def test_the_sign_of_a_vector_is_pinned() -> None:
    """A term is the same with both vectors negated: which is written must not be left to chance."""
    matrix = natural_like(40, 50, seed=2)[..., 0].astype(np.float64) - 128
    left = factorise(matrix).left
    assert (left[np.abs(left).argmax(axis=0), np.arange(40)] > 0).all()
    assert np.array_equal(factorise(-matrix).left, left)


@pytest.mark.parametrize("quality", [40, 75])
def test_a_file_cut_off_anywhere_is_the_image_at_a_lower_rank(quality: int) -> None:
    image = natural_like(96, 128, seed=3)
    data = CODEC.encode(image, quality)
    images = held_at_each_cut(data)
    whole = CODEC.decode_prefix(data)
    assert whole.held == whole.whole == max(images)
    assert np.array_equal(whole.image, CODEC.decode(data))
    assert len(images) > 3
    assert (np.diff([psnr_db(image, images[held]) for held in sorted(images)]) > 0).all()
    assert np.ptp(images[0].reshape(-1, 3), axis=0).max() == 0  # rank 0: the means


def test_a_cut_file_is_not_silently_decoded() -> None:
    data = CODEC.encode(natural_like(96, 128, seed=3), 60)
    for length in (len(data) - 1, len(data) // 2, len(data) // 4):
        assert CODEC.decode_prefix(data[:length]).held < CODEC.decode_prefix(data).whole
        with pytest.raises(DataError, match="cut off"):
            CODEC.decode(data[:length])


def test_damage_is_no_prefix() -> None:
    """A layer that is all there is believed only with its checksum."""
    data = CODEC.encode(natural_like(96, 128, seed=3), 75)
    start = len(data) - len(read_container(data).body)
    cut = len(data) - 10
    first = bytearray(data[:cut])
    first[start + HEAD + 40] ^= 1
    with pytest.raises(DataError, match="damaged layer"):
        CODEC.decode_prefix(bytes(first))
    head = bytearray(data[:cut])
    head[start + 2] ^= 1
    with pytest.raises(DataError, match="head is damaged"):
        CODEC.decode_prefix(bytes(head))
    last = bytearray(data)
    last[-5] ^= 1
    with pytest.raises(DataError, match="body is damaged"):
        CODEC.decode_prefix(bytes(last))
    with pytest.raises(DataError, match="not of svd"):
        CODEC.decode_prefix(write_container("png", 8, 8, b"x" * 50)[:-9])


@pytest.mark.parametrize("shape", SHAPES)
def test_one_gray_is_its_mean_and_nothing_else(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 77, np.uint8)
    data = CODEC.encode(image, 50)
    assert len(data) == 29 + HEAD
    assert CODEC.decode_prefix(data).whole == 0
    assert np.array_equal(CODEC.decode(data), image)


def test_a_line_and_noise_and_edges_are_near_at_the_best_quality() -> None:
    generator = np.random.default_rng(4)
    gray = {
        "a line": generator.integers(0, 256, (1, 300, 1)),
        "a column": generator.integers(0, 256, (300, 1, 1)),
        "noise": generator.integers(0, 256, (60, 70, 1)),
        "rank 1": np.outer(np.linspace(0, 1, 80), np.linspace(0, 255, 90))[..., None],
        "checks": 255 * (np.indices((64, 65)).sum(axis=0) % 2)[..., None],
    }
    for name, luma in gray.items():
        image = np.repeat(luma, 3, axis=2).astype(np.uint8)
        assert psnr_db(image, CODEC.decode(CODEC.encode(image, 100))) > 44, name
    assert CODEC.decode_prefix(CODEC.encode(np.repeat(gray["checks"], 3, 2).astype(np.uint8), 60)).whole <= 2


def test_a_large_image_is_cut_into_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has factors of its own, odd sides and all, and layers go over all of them."""
    image = natural_like(101, 75, seed=5)
    as_one = psnr_db(image, CODEC.decode(CODEC.encode(image, 70)))
    monkeypatch.setattr(svd, "TILE", 32)
    data = CODEC.encode(image, 70)
    assert len(layers(bytes(read_whole(data, "svd").body), blocks=36)[1]) > 2
    assert psnr_db(image, CODEC.decode(data)) > as_one - 1
    whole = CODEC.decode_prefix(data)
    part = CODEC.decode_prefix(data[: len(data) * 2 // 3])
    assert 0 < part.held < whole.held == whole.whole <= 32
    assert psnr_db(image, part.image) < psnr_db(image, whole.image)
    assert CODEC.encode_each(image, [70, 20])[0] == data


@pytest.mark.parametrize("length", [1, 1023, 1024, 1025, 2047, 2049, 3071, 3073, 65500, 65499])
def test_tiles_are_no_longer_than_they_may_be(length: int) -> None:
    spans = svd._spans(length)
    assert [span.stop for span in spans[:-1]] == [span.start for span in spans[1:]]
    assert (spans[0].start, spans[-1].stop) == (0, length)
    assert max(span.stop - span.start for span in spans) <= svd.TILE
    assert all(span.start % 2 == 0 for span in spans)
    assert len(spans) == -(-length // svd.TILE)


def test_several_qualities_share_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(svd, "factorise", lambda matrix: calls.append(matrix.shape) or factorise(matrix))
    CODEC.encode_each(natural_like(40, 60), [10, 50, 90, 50])
    assert calls == [(40, 60), (20, 30), (20, 30)]


def test_rank_grows_with_quality() -> None:
    image = natural_like(120, 160, seed=6)
    ranks = [CODEC.decode_prefix(data).whole for data in CODEC.encode_each(image, range(1, 101, 9))]
    assert ranks == sorted(ranks)
    assert ranks[0] < 5
    assert ranks[-1] > 60


def test_bytes_do_not_depend_on_threads_of_blas() -> None:
    program = (
        "import hashlib, sys\n"
        "from limla.codecs.svd import SvdCodec\n"
        "from tests.conftest import natural_like\n"
        "files = SvdCodec().encode_each(natural_like(300, 400, seed=7), [20, 50, 80, 100])\n"
        "print(hashlib.sha256(b''.join(files)).hexdigest())\n"
    )
    expected = hashlib.sha256(
        b"".join(CODEC.encode_each(natural_like(300, 400, seed=7), [20, 50, 80, 100]))
    ).hexdigest()
    for threads in ("1", "2", "5"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert done.stdout.strip() == expected, threads


def test_blas_has_one_thread_inside_and_its_own_number_after() -> None:
    def threads() -> list[int]:
        return [
            found["num_threads"] for found in threadpoolctl.threadpool_info() if "numpy" in found["filepath"]
        ]

    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        before = threads()
        assert before == [3]
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)  # they need not leave in order
        inside = threads()
        second.__exit__(None, None, None)
        after = threads()
        with pytest.raises(ZeroDivisionError), one_blas_thread():
            raise ZeroDivisionError
        assert inside == [1]
        assert after == before == threads()


def test_heads_that_make_no_sense_are_refused() -> None:
    image = natural_like(40, 56, seed=8)
    head, payloads = layers(bytes(read_whole(CODEC.encode(image, 50), "svd").body))
    whole = struct.unpack(">HHH", head[:6])[2]
    assert np.array_equal(CODEC.decode(file_of(40, 56, head, payloads)), CODEC.decode(CODEC.encode(image, 50)))
    wrong = {
        "steps 0": (struct.pack(">HHH", 0, 9, whole) + head[6:], payloads),
        "rank 41 of 40": (struct.pack(">HHH", 64, 64, 41) + head[6:], payloads),
        "after them": (struct.pack(">HHH", 64, 64, 0) + head[6:], payloads),
        "cut off before its first layer": (head[:8], []),
        "ranks and 0 bytes": (head, payloads[:-1]),
        "layer of nothing": (head, [b""]),
        "layer of 0 ranks": (head, [b"\0" + payloads[0][1:]]),
        "layer of 255 ranks": (head, [b"\xff" + payloads[0][1:]]),
        "ends too early": (head, [payloads[0][:20]]),
    }
    for message, (bad_head, bad_payloads) in wrong.items():
        with pytest.raises(DataError, match=message):
            CODEC.decode(file_of(40, 56, bad_head, bad_payloads))


def test_mutated_layers_with_their_checksums_made_right_decode_or_are_refused() -> None:
    """What no checksum catches: the range coder's bytes may say anything, within bounds."""
    generator = np.random.default_rng(9)
    images = [natural_like(40, 56, seed=8), natural_like(3, 90, seed=8), natural_like(33, 20, seed=8)]
    for number in range(600):
        image = images[number % 3]
        quality = int(generator.integers(1, 101))
        head, payloads = layers(bytes(read_whole(CODEC.encode(image, quality), "svd").body))
        numbers = [bytearray(part) for part in (head, *payloads)]
        for _ in range(int(generator.integers(1, 5))):
            part = numbers[int(generator.integers(len(numbers)))]
            part[int(generator.integers(len(part)))] = int(generator.integers(256))
        height, width = image.shape[:2]
        data = file_of(height, width, bytes(numbers[0]), [bytes(part) for part in numbers[1:]])
        decodes_or_data_error(CODEC.decode, data)
        decodes_or_data_error(lambda found: CODEC.decode_prefix(found).image, data[: len(data) * 3 // 4])


def test_a_little_file_does_not_claim_much_memory() -> None:
    """13,000 × 13,000 pixels of full rank, it says, in a hundred bytes."""
    head = struct.pack(">HHH", 64, 64, 1000) + bytes(3 * 13 * 13)
    data = file_of(13_000, 13_000, head, [b"\xff" + bytes(range(100))])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"ends too early|no sense|no block"):
            CODEC.decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_a_term_of_nothing_is_refused() -> None:
    """Else ranks would cost no bytes: a thousandth of a bit for each number."""
    side = svd.Side(64, 64, True)
    sides = [side, *2 * [svd.Side(32, 32, False)]]
    zeros, one = np.zeros(64, np.int32), np.eye(1, 64, dtype=np.int32)[0]
    for columns, rows, is_refused in ((zeros, zeros, True), (zeros, one, False), (one, zeros, False)):
        block = svd.Block(128, [80], [columns], [rows])
        body = svd.write_body((2.0, 1.0), sides, [block, svd.Block(128), svd.Block(128)])
        data = write_container("svd", 64, 64, body)
        if is_refused:
            with pytest.raises(DataError, match="a term of nothing"):
                CODEC.decode(data)
        else:
            assert (CODEC.decode(data) == 128).all()


def test_the_encoder_writes_no_term_of_nothing() -> None:
    """The shorter vectors are never zeros, by the threshold of what is kept: at every quality, of any picture."""
    generator = np.random.default_rng(5)
    pictures = [
        *(natural_like(height, width, seed=height) for height, width in SHAPES),
        *(
            generator.integers(0, 256, (*shape, 3), np.uint8)
            for shape in ((1, 90), (90, 2), (40, 40), (30, 200))
        ),
        *(np.full((20, 30, 3), level, np.uint8) for level in (0, 127, 255)),
        np.indices((40, 50)).sum(axis=0)[..., None].repeat(3, axis=2).astype(np.uint8) % 2 * 255,
        np.indices((64, 64)).sum(axis=0)[..., None].repeat(3, axis=2).astype(np.uint8),
        np.eye(60, 80, dtype=np.uint8)[..., None].repeat(3, axis=2) * 255,
        generator.integers(127, 129, (50, 60, 3)).astype(np.uint8),
    ]
    num_terms = 0
    for image in pictures:
        for side, plane in zip(svd._sides(*image.shape[:2]), svd._cut(image), strict=True):
            blocks = svd._quantise_each(
                plane, [svd._steps(quality)[not side.is_luma] for quality in range(1, 101)]
            )
            for block in blocks:
                shorter = block.columns if side.height <= side.width else block.rows
                assert all(vector.any() for vector in shorter)
                num_terms += len(shorter)
    assert num_terms > 10_000


def photos(flowers: Path, number: int) -> list[Image]:
    """The first photos of each kind."""
    paths = [sorted(folder.glob("*.jpg"))[3] for folder in sorted(flowers.iterdir()) if folder.is_dir()]
    return [np.asarray(PIL.Image.open(path).convert("RGB")) for path in paths[:number]]


def test_photos_need_more_bits_than_jpeg(flowers: Path) -> None:
    """The published shape, in the mean: of single photos full of detail JPEG's own lower qualities are no better."""
    qualities = (20, 50, 75, 90)
    more: list[list[float]] = []
    for image in photos(flowers, 5):
        sides = image.shape[:2]
        files = CODEC.encode_each(image, range(19, 101, 9))
        rates = [rate_bpp(len(data), *sides) for data in files]
        psnrs = [psnr_db(image, CODEC.decode(data)) for data in files]
        jpegs = JpegCodec().encode_each(image, qualities)
        same = np.interp([psnr_db(image, JpegCodec().decode(data)) for data in jpegs], psnrs, np.log(rates))
        more.append(
            [np.exp(rate) / rate_bpp(len(data), *sides) for rate, data in zip(same, jpegs, strict=True)]
        )
    assert (np.mean(more, axis=0) > 1.1).all(), more
    assert min(at_each[-1] for at_each in more) > 1


def test_low_rates_are_met(flowers: Path) -> None:
    codec = build_codec("svd-bpp")
    for image in photos(flowers, 2):
        for thousandths in (150, 300, 600, 1200):
            rate = rate_bpp(len(codec.encode(image, thousandths)), *image.shape[:2])
            assert rate == pytest.approx(thousandths / 1000, rel=0.1)
