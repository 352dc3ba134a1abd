"""What bounds the learned codec's files and weights, and what is damage in them."""

from __future__ import annotations

import numpy as np
import pytest

from limla.codecs import autoencoder_code as coding
from limla.codecs import autoencoder_weights
from limla.codecs.autoencoder import AutoencoderCodec
from limla.codecs.container import read_whole
from limla.errors import DataError
from tests.conftest import natural_like
from tests.golden.weights import WEIGHTS


@pytest.fixture(scope="module")
def codec() -> AutoencoderCodec:
    return AutoencoderCodec(str(WEIGHTS))


def test_a_code_of_nothing_is_an_image_of_one_gray(codec: AutoencoderCodec) -> None:
    """So no code is too short for its grid."""
    image = np.full((72, 88, 3), 128, np.uint8)
    data = codec.encode(image, 64)
    assert len(read_whole(data, "autoencoder").body) == 9
    assert np.abs(codec.decode(data).astype(int) - 128).max() <= 2


def test_an_assertion_of_ours_is_no_damage(codec: AutoencoderCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """constriction speaks of damage by one."""
    data = codec.encode(natural_like(40, 56, seed=9), 20)

    def fails(*_: object) -> None:
        raise AssertionError("a bug of ours")

    monkeypatch.setattr(coding.Known, "lean", fails)
    with pytest.raises(AssertionError, match="a bug of ours"):
        codec.decode(data)


def test_bits_that_no_writer_wrote_are_a_data_error() -> None:
    with pytest.raises(DataError, match="code is damaged"):
        coding.BitReader(b"\xff" * 8).bits(None, np.full(400, coding.SCALE // 3))


def test_weights_too_long_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's too, which come as bytes."""
    data = WEIGHTS.read_bytes() + bytes(10)
    monkeypatch.setattr(autoencoder_weights, "MOST_BYTES", len(data) - 1)
    with pytest.raises(DataError, match=f"{len(data)} bytes are too many"):
        AutoencoderCodec.from_weights(data)
