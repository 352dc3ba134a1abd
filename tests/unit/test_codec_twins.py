"""What the contract suite asks of codecs, of their twins whose quality is a rate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from limla.codecs import build_codec
from limla.codecs.base import Codec, encode_each
from limla.errors import DataError, SettingsError
from tests.catalogue import SHAPES
from tests.conftest import natural_like


@pytest.fixture(params=["jpeg-bpp", "webp-bpp", "svd-bpp"])
def twin(request: pytest.FixtureRequest) -> Codec:
    """Three of the codecs' twins; the contract suite has the codecs themselves."""
    return build_codec(request.param)


def test_a_twin_keeps_shapes_and_dtypes(twin: Codec) -> None:
    for shape in SHAPES:
        decoded = twin.decode(twin.encode(natural_like(*shape, seed=1), 700))
        assert (decoded.shape, decoded.dtype) == ((*shape, 3), np.uint8)
        assert decoded.flags.writeable


def test_a_twin_leaves_its_input_alone_however_it_lies(twin: Codec) -> None:
    image = natural_like(40, 60, seed=6)
    before, expected = image.copy(), twin.encode(image, 900)
    image.setflags(write=False)
    for view in (image, np.asfortranarray(image), image[::-1, ::-1].copy()[::-1, ::-1]):
        assert twin.encode(view, 900) == expected
    assert np.array_equal(image, before)


def test_a_twin_refuses_what_its_codec_refuses(twin: Codec) -> None:
    image = natural_like(64, 64, seed=8)
    data = twin.encode(image, 900)
    for broken in (b"", b"\0", b"not an image at all", data[:10], data[:-20], data[: len(data) // 2], data[1:]):
        with pytest.raises(DataError):
            twin.decode(broken)
    wrongs: list[Any] = [image[..., 0], image.astype(np.float32), image[..., :1]]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="uint8"):
            twin.encode(wrong, 900)
    for rate in (0, -1, 24001):
        with pytest.raises(SettingsError, match="choose 1 to 24000"):
            encode_each(twin, image, [900, rate])


def test_threads_of_a_twin_do_not_disturb_each_other(twin: Codec) -> None:
    images = [natural_like(50 + number, 70, seed=number) for number in range(4)]
    expected = [encode_each(twin, image, [300, 1500]) for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: encode_each(twin, image, [300, 1500]), 4 * images))
    assert found == 4 * expected
