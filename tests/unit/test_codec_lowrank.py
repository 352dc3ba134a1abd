"""What is particular to lowrank: the descent in whole numbers, the coding of the factors, the shape of its curve."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from limla.codecs import build_codec, integer_factors
from limla.codecs.base import Codec, encode_each
from limla.codecs.container import read_container, write_container
from limla.codecs.factor_coding import CODINGS, Shape, read_factors, write_factors
from limla.codecs.integer_factors import HIGHEST, LOWEST, Factors, Rows, factorise, svd_start
from limla.codecs.lowrank import LowrankCodec
from limla.errors import DataError, SettingsError
from limla.metrics import psnr_db, rate_bpp
from limla.types import Image
from tests.catalogue import decodes_or_data_error, qualities
from tests.conftest import natural_like


def patches(kind: str, number: int = 300) -> Rows:
    """(number, 64) rows: smooth, wild, of one direction alone, or nothing."""
    generator = np.random.default_rng(3)
    if kind == "smooth":
        steps = generator.normal(0, 12, (number, 64)).cumsum(axis=1)
        return np.clip(steps, -255, 255).astype(np.int16)
    if kind == "wild":
        return generator.integers(-255, 256, (number, 64), dtype=np.int16)
    if kind == "one":
        return np.outer(generator.integers(-15, 16, number), np.arange(64) % 16).astype(np.int16)
    return np.zeros((number, 64), np.int16)


def error(x: Rows, factors: Factors) -> int:
    product = factors.u.astype(np.int64).T @ factors.v.astype(np.int64)
    return int(np.square(x - product).sum())


@pytest.mark.parametrize("kind", ["smooth", "wild", "one", "nothing"])
@pytest.mark.parametrize("rank", [1, 7, 64])
def test_another_round_never_makes_the_error_larger(kind: str, rank: int) -> None:
    x = patches(kind)
    start = svd_start(x)[:rank]
    before = int(np.square(x.astype(np.int64)).sum())
    for num_rounds in range(8):
        factors = factorise(x, start, num_rounds)
        for factor in factors:
            assert factor.dtype == np.int8
            assert factor.size == 0 or LOWEST <= factor.min() <= factor.max() <= HIGHEST
        assert error(x, factors) <= before
        before = error(x, factors)


def test_rounds_make_the_error_smaller() -> None:
    x = patches("smooth")
    start = svd_start(x)[:12]
    assert error(x, factorise(x, start, 10)) < 0.95 * error(x, factorise(x, start, 0))


def test_a_column_is_the_best_there_is_in_whole_numbers() -> None:
    x = patches("wild")
    u, v = factorise(x, svd_start(x)[:5], 3)
    rest = x - u[:-1].astype(np.int64).T @ v[:-1].astype(np.int64)
    # the last column of U was replaced last: nothing has changed since
    tried = np.arange(LOWEST, HIGHEST + 1)
    errors = np.square(rest[None] - tried[:, None, None] * v[-1].astype(np.int64)).sum(axis=2)
    mine = np.take_along_axis(errors, u[-1].astype(np.int64)[None] - LOWEST, axis=0)[0]
    assert np.array_equal(mine, errors.min(axis=0))


def test_the_start_is_the_svd() -> None:
    x = patches("smooth")
    found = svd_start(x)
    _, values, directions = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    assert np.allclose(np.square(found).sum(axis=1), values, rtol=1e-9)
    # up to signs; components apart enough to be told from their neighbours
    assert np.allclose(np.abs(np.sum(found[:10] * directions[:10], axis=1)), np.sqrt(values[:10]), rtol=1e-6)


def test_v_of_few_rows_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x = patches("smooth", 4000)
    of_all = error(x, factorise(x, svd_start(x)[:10], 10))
    monkeypatch.setattr(integer_factors, "MOST_FITTED_ROWS", 1000)
    factors = factorise(x, svd_start(x)[:10], 10)
    assert factors.u.shape == (10, 4000)
    assert error(x, factors) == pytest.approx(of_all, rel=0.05)
    assert error(x, factors) != of_all


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=3
    ),
    spread=st.sampled_from([0.0, 0.4, 3.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_factors_come_back(coding: str, shapes: list[tuple[int, int, int]], spread: float, seed: int) -> None:
    generator = np.random.default_rng(seed)

    def entries(*shape: int) -> integer_factors.Factor:
        return np.clip(np.rint(generator.laplace(0, spread, shape)), LOWEST, HIGHEST).astype(np.int8)

    planes = [Factors(entries(rank, rows * columns), entries(rank, 64)) for rank, rows, columns in shapes]
    named = [Shape(*shape) for shape in shapes]
    found = read_factors(memoryview(write_factors(planes, named, coding)), named, coding)
    assert len(found) == len(planes)
    for one, other in zip(found, planes, strict=True):
        assert np.array_equal(one.u, other.u)
        assert np.array_equal(one.v, other.v)


def test_codings_hold_the_same_picture() -> None:
    image = natural_like(120, 160, seed=2)
    deflate, adaptive = (build_codec("lowrank", coding=coding) for coding in CODINGS)
    for quality in qualities(deflate, 5):
        one, other = deflate.encode(image, quality), adaptive.encode(image, quality)
        assert len(other) < len(one)
        # a file says how it is coded
        assert np.array_equal(adaptive.decode(one), deflate.decode(other))
    with pytest.raises(SettingsError, match="unknown coding of factors 'zip'; known: deflate, adaptive"):
        LowrankCodec("zip")


@pytest.mark.parametrize("coding", CODINGS)
def test_one_colour_stays_that_colour(coding: str) -> None:
    codec = LowrankCodec(coding)
    for gray in (0, 1, 127, 255):
        image = np.full((20, 30, 3), gray, np.uint8)
        data = codec.encode(image, 50)
        assert np.array_equal(codec.decode(data), image)
        assert len(data) < 60


THREADS = """
import hashlib
import numpy as np
from limla.codecs.lowrank import LowrankCodec
rows, columns = np.mgrid[:230, :310]
image = np.stack([rows * columns // 90, rows + columns, rows * 3 ^ columns], axis=2).astype(np.uint8)
digest = hashlib.sha256(b"".join(LowrankCodec().encode_each(image, [3, 30, 96])))
print(digest.hexdigest())
"""


def test_bytes_do_not_depend_on_the_threads_of_blas() -> None:
    found = set()
    for number in ("1", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
        command = [sys.executable, "-c", THREADS]
        found.add(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert len(found) == 1


@functools.cache
def small_file(coding: str) -> bytes:
    return LowrankCodec(coding).encode(natural_like(40, 56, seed=9), 30)


def resealed(data: bytes, body: bytes) -> bytes:
    """A file with another body, its checksum right."""
    contents = read_container(data)
    return write_container(contents.codec, contents.height, contents.width, body)


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.floats(0.5, 1),
    more=st.binary(max_size=8),
)
def test_damage_behind_a_right_checksum(
    coding: str, changes: list[tuple[float, int]], length: float, more: bytes
) -> None:
    codec = LowrankCodec(coding)
    data = small_file(coding)
    body = bytearray(read_container(data).body)
    for place, value in changes:
        body[int(place * len(body))] = value
    body = body[: int(length * len(body))] + more
    decodes_or_data_error(codec.decode, resealed(data, bytes(body)))


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_too_long_or_short_is_refused(coding: str) -> None:
    codec = LowrankCodec(coding)
    data = small_file(coding)
    body = bytes(read_container(data).body)
    for wrong in (
        b"",
        body[:3],
        body[:7],
        body[:-3],
        body + b"\0",
        b"\2" + body[1:],
        body[:2] + b"\x41" + body[3:],
    ):
        with pytest.raises(DataError, match="lowrank file"):
            codec.decode(resealed(data, wrong))
    with pytest.raises(DataError, match="65500 at most"):
        codec.decode(write_container("lowrank", 70_000, 10, body))


def test_nothing_is_inflated_beyond_what_the_header_says() -> None:
    data = LowrankCodec().encode(natural_like(16, 16), 1)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(bytes(1 << 26)) + deflate.flush()
    start = time.process_time()
    with pytest.raises(DataError, match="more or fewer numbers than 68"):
        LowrankCodec().decode(resealed(data, bytes([0, 9, 1, 9, 0, 9, 0]) + bomb))
    assert time.process_time() - start < 1  # of inflating all, far more


def photos(folder: Path, number: int) -> list[Image]:
    """Of about 500 × 333 pixels."""
    found: list[Image] = []
    paths = sorted(folder.glob("*/*.jpg"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
    for path in paths:
        with PillowImage.open(path) as picture:
            if max(picture.size) == 500 and 320 <= min(picture.size) <= 380:
                found.append(np.asarray(picture.convert("RGB")))
        if len(found) == number:
            break
    return found


def curve(codec: Codec, images: list[Image], steps: list[int]) -> tuple[list[float], list[float]]:
    """Mean bits per pixel and mean PSNR at each quality."""
    rates, distortions = np.zeros(len(steps)), np.zeros(len(steps))
    for image in images:
        for number, data in enumerate(encode_each(codec, image, steps)):
            rates[number] += rate_bpp(len(data), *image.shape[:2]) / len(images)
            distortions[number] += psnr_db(image, codec.decode(data)) / len(images)
    return rates.tolist(), distortions.tolist()


def test_on_photos_it_is_better_than_jpeg_at_the_lowest_rates_alone(flowers: Path) -> None:
    images = photos(flowers, 8)
    assert len(images) == 8
    jpeg = curve(build_codec("jpeg"), images, [3, 5, 7, 10, 15, 25, 40, 60])
    rates, found = curve(LowrankCodec(), images, [1, 6, 8, 10, 12, 18, 36])
    gains = np.array(found) - np.interp(rates, *jpeg)
    assert rates[0] < 0.07
    assert rates[-1] > 1
    crossing = np.interp(0, -gains[1:], rates[1:])
    assert (np.diff(gains[1:]) < 0).all()
    assert gains[1] > 1.5
    assert 0.25 < crossing < 0.4
    assert gains[-1] < -1
    # the better coder of the same factors keeps up with JPEG further
    rates, found = curve(LowrankCodec("adaptive"), images, [9, 18])
    assert (np.array(found) > np.interp(rates, *jpeg) + 0.5).all()
