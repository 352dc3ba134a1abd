"""The learned codec: its code, its weights file, and what it says of files it cannot read."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.codecs import autoencoder_code as coding
from limla.codecs import autoencoder_network as networks
from limla.codecs import build_codec, codec_label
from limla.codecs.autoencoder import AutoencoderCodec
from limla.codecs.autoencoder_code import Contexts
from limla.codecs.autoencoder_weights import read_weights
from limla.codecs.base import Learned
from limla.codecs.code_arrays import CodeArrays, CodedImage
from limla.codecs.container import read_whole, write_container
from limla.codecs.decoding import decode_image
from limla.errors import DataError, SettingsError
from limla.metrics import psnr_db
from tests.catalogue import catalogue_codec, codec_text, decodes_or_data_error
from tests.conftest import natural_like
from tests.golden.weights import WEIGHTS

_DIGEST_BYTES = 32
_HEADER = struct.Struct("<8sII")


@pytest.fixture(scope="module")
def codec() -> AutoencoderCodec:
    return AutoencoderCodec(str(WEIGHTS))


def test_without_weights_it_says_how_to_get_some() -> None:
    with pytest.raises(SettingsError, match=r"limla codec train .* autoencoder:weights=FILE"):
        build_codec("autoencoder")
    with pytest.raises(SettingsError, match=r"no file of weights at nowhere\.bin"):
        build_codec("autoencoder:weights=nowhere.bin")


def test_it_is_recorded_by_the_contents_of_its_weights(codec: AutoencoderCodec) -> None:
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert codec.settings()["weights"] == digest[:16]
    assert codec_label(codec_text("autoencoder")) == f"autoencoder:weights={digest[:16]}"
    assert isinstance(codec, Learned)
    assert codec.weights_bytes() == WEIGHTS.read_bytes()
    image = natural_like(30, 40)
    assert AutoencoderCodec.from_weights(codec.weights_bytes()).encode(image, 9) == codec.encode(image, 9)


def test_a_code_is_a_prefix_of_the_longer_ones(codec: AutoencoderCodec) -> None:
    image = natural_like(61, 83, seed=3)
    whole = codec.codes(image, 64)
    assert whole.dtype == np.uint8
    assert whole.shape == (codec.bits_of(64), 8, 11)
    assert set(np.unique(whole)) == {0, 1}
    for quality in (1, 17, 63):
        codes = codec.codes(image, quality)
        assert len(codes) == codec.bits_of(quality)
        assert np.array_equal(codes, whole[: len(codes)])


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (9, 40), (61, 83)])
def test_codes_decode_to_what_the_file_does(codec: AutoencoderCodec, shape: tuple[int, int]) -> None:
    image = natural_like(*shape, seed=4)
    for quality in (1, 30, 64):
        decoded = codec.decode(codec.encode(image, quality))
        if shape != (1, 1):  # one pixel may be gray
            assert np.ptp(image, axis=2).any()
        assert np.array_equal(codec.from_codes(codec.codes(image, quality), *shape), decoded)


def test_codes_that_no_encoder_writes_are_refused(codec: AutoencoderCodec) -> None:
    codes = codec.codes(natural_like(16, 24), 20)
    for wrong in (codes[:-1], codes[:0], codes[:, :1], codes.astype(np.int64), codes + 1):
        with pytest.raises(DataError):
            codec.from_codes(wrong, 16, 24)
    sign_of_nothing = codes.copy()
    sign_of_nothing[0], sign_of_nothing[1] = 0, 1
    with pytest.raises(DataError, match="no sign"):
        codec.from_codes(sign_of_nothing, 16, 24)


def test_it_packs_its_bits_into_less(codec: AutoencoderCodec) -> None:
    image = natural_like(128, 160, seed=5)
    for quality in (8, 64):
        num_bits = codec.codes(image, quality).size
        assert 8 * len(codec.encode(image, quality)) < 0.7 * num_bits


def test_bytes_and_pixels_do_not_depend_on_threads_or_bands(
    codec: AutoencoderCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of whole numbers are exact: any number of BLAS threads, and any cut into bands, gives the same."""
    image = natural_like(203, 331, seed=6)
    data = codec.encode(image, 40)
    pixels = codec.decode(data)
    for threads in (1, 2):
        with threadpoolctl.threadpool_limits(threads):
            assert codec.encode(image, 40) == data
    for positions in (1, 100, 500):
        monkeypatch.setattr(networks, "_POSITIONS_AT_ONCE", positions)
        assert codec.encode(image, 40) == data
        assert np.array_equal(codec.decode(data), pixels)


def test_bands_of_the_code_read_back(codec: AutoencoderCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    image = natural_like(203, 331, seed=7)
    pixels = codec.decode(codec.encode(image, 40))
    monkeypatch.setattr(coding, "_POSITIONS_AT_ONCE", 100)
    assert np.array_equal(codec.decode(codec.encode(image, 40)), pixels)


def test_gray_is_decoded_without_a_tint(codec: AutoencoderCodec) -> None:
    image = np.repeat(natural_like(50, 60, seed=8)[..., :1], 3, axis=2)
    for quality in (1, 64):
        assert not np.ptp(codec.decode(codec.encode(image, quality)), axis=2).any()


def test_other_weights_are_refused(codec: AutoencoderCodec) -> None:
    other = AutoencoderCodec.from_weights(_changed(lambda header: header.update(step=header["step"] + 2)))
    data = codec.encode(natural_like(20, 20), 10)
    with pytest.raises(DataError, match="written with other weights"):
        other.decode(data)
    with pytest.raises(DataError, match="weights alone"):
        decode_image(data, "laff")


def _changed(change: Any) -> bytes:
    """The weights file with another header, and a right checksum."""
    data = WEIGHTS.read_bytes()
    magic, version, length = _HEADER.unpack_from(data)
    header = json.loads(data[_HEADER.size : _HEADER.size + length])
    change(header)
    text = json.dumps(header).encode()
    body = _HEADER.pack(magic, version, len(text)) + text + data[_HEADER.size + length : -_DIGEST_BYTES]
    return body + hashlib.sha256(body).digest()


def _set(name: str, value: Any) -> Any:
    return lambda header: header.update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        _set("step", 0),
        _set("step", 10**9),
        _set("step", "x"),
        _set("lengths", [0] * 65),
        _set("lengths", list(range(65))),
        _set("order", []),
        _set("order", [[0, 5], [0, 3]]),
        _set("order", [[10**6, 1]]),
        _set("arrays", []),
        _set("arrays", [["known", "<i2", [10**9, 10**9]]]),
        _set("arrays", [["known", "O", [1]]]),
        _set("arrays", None),
        lambda header: header.pop("order"),
        lambda header: header["arrays"].reverse(),
    ],
)
def test_weights_that_limla_did_not_write_are_refused(change: Any) -> None:
    with pytest.raises(DataError, match="limla did not write"):
        read_weights(_changed(change))


def test_damaged_and_foreign_weights_are_one_line(tmp_path: Path) -> None:
    whole = WEIGHTS.read_bytes()
    later = _HEADER.pack(b"LIMLA-AE", 2, 0) + bytes(64)
    for data in (b"", b"PK\3\4", bytes(100), whole[:-1], whole[:1000], whole + b"\0", later):
        path = tmp_path / "weights.bin"
        path.write_bytes(data)
        with pytest.raises(DataError, match="weights") as caught:
            AutoencoderCodec(str(path))
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
    place = len(whole) // 2
    with pytest.raises(DataError, match="SHA-256"):
        read_weights(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.floats(0, 1),
)
def test_a_damaged_code_with_right_checksums_ends(changes: list[tuple[float, int]], length: float) -> None:
    codec = catalogue_codec("autoencoder")
    contents = read_whole(codec.encode(natural_like(40, 56, seed=9), 20), "autoencoder")
    start = 9
    code = bytearray(contents.body[start:])
    for place, value in changes:
        code[int(place * len(code))] = value
    body = bytes(contents.body[:start]) + bytes(code[: int(length * len(code))])
    decodes_or_data_error(codec.decode, write_container("autoencoder", 40, 56, body))


@pytest.mark.parametrize("body", [b"", b"x" * 8, None, 0, 65, 127, 128, 255])
def test_a_body_of_no_code_is_refused(codec: AutoencoderCodec, body: bytes | int | None) -> None:
    mark = bytes(read_whole(codec.encode(natural_like(8, 8), 1), "autoencoder").body[:8])
    if body is None:
        body = mark
    elif isinstance(body, int):
        body = mark + bytes((body,)) + b"1234"
    with pytest.raises(DataError):
        codec.decode(write_container("autoencoder", 8, 8, body))


def test_probabilities_follow_what_is_known() -> None:
    """Contexts of every digit are learnt: a bit among large neighbours is likelier than among zeros."""
    contexts: Contexts = read_weights(WEIGHTS.read_bytes()).code.contexts
    seen = contexts.other[:, :, 0, :]
    assert (seen[..., -1] >= seen[..., 0]).mean() > 0.9


def test_arrays_of_codes_come_back(codec: AutoencoderCodec, tmp_path: Path) -> None:
    arrays = CodeArrays.begin(codec, 20)
    images = {f"dog/photo-{number}": natural_like(30 + number, 40, seed=number) for number in range(3)}
    for key, image in images.items():
        arrays.add(CodedImage.of(key, codec.codes(image, 20), *image.shape[:2]))
    path = tmp_path / "codes.npz"
    arrays.write(path)
    assert arrays.to_bytes() == path.read_bytes()
    found = CodeArrays.read(path)
    found.check_codec(codec)
    assert (found.quality, found.bits, len(found)) == (20, codec.bits_of(20), 3)
    for item, (key, image) in zip(found, images.items(), strict=True):
        assert item.key == key
        assert np.array_equal(item.codes, codec.codes(image, 20))
        assert psnr_db(image, codec.from_codes(item.codes, item.height, item.width)) > 15
    with np.load(path, allow_pickle=False) as members:
        first = np.unpackbits(members["codes"])[: arrays.bits * 4 * 5].reshape(-1, 4, 5)
        assert members["keys"].tolist() == list(images)
    assert np.array_equal(first, codec.codes(images["dog/photo-0"], 20))
    other = AutoencoderCodec.from_weights(_changed(lambda header: header.update(step=header["step"] + 2)))
    with pytest.raises(DataError, match="name the weights that made them"):
        found.check_codec(other)
    assert len(CodeArrays.from_bytes(CodeArrays.begin(codec, 20).to_bytes())) == 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.floats(0, 1),
)
def test_damaged_arrays_are_a_data_error(changes: list[tuple[float, int]], length: float) -> None:
    codec = AutoencoderCodec(str(WEIGHTS))
    arrays = CodeArrays.begin(codec, 5)
    arrays.add(CodedImage.of("a", codec.codes(natural_like(24, 24), 5), 24, 24))
    data = bytearray(arrays.to_bytes())
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        found = CodeArrays.from_bytes(bytes(data[: int(length * len(data))]))
    except DataError:
        return
    assert all(item.codes.max(initial=0) <= 1 for item in found)


@pytest.mark.parametrize(
    "changed",
    [
        {"format": np.array("limla-codes-2")},
        {"bits": np.int64(0)},
        {"bits": np.int64(10**12)},
        {"bits": np.array([1, 2])},
        {"quality": np.array("many")},
        {"keys": np.array(["a", "b"])},
        {"keys": np.array([1])},
        {"sides": np.array([[3, 3, 10**9, 10**9]])},
        {"sides": np.array([[3, 4, 24, 24]])},
        {"sides": np.array([[3, 3, 0, 24]])},
        {"sides": np.zeros((1, 4))},
        {"codes": np.zeros(3, np.uint8)},
        {"codes": np.zeros((3, 3), np.uint8)},
        {"codes": np.array([{}])},
    ],
    ids=str,
)
def test_arrays_that_do_not_belong_together_are_a_data_error(
    codec: AutoencoderCodec, changed: dict[str, Any]
) -> None:
    arrays = CodeArrays.begin(codec, 5)
    arrays.add(CodedImage.of("a", codec.codes(natural_like(24, 24), 5), 24, 24))
    with np.load(io.BytesIO(arrays.to_bytes()), allow_pickle=False) as members:
        whole = dict(members)
    file, packed = io.BytesIO(), io.BytesIO()
    np.savez(file, **{**whole, **changed})
    with pytest.raises(DataError):
        CodeArrays.from_bytes(file.getvalue())
    np.savez_compressed(packed, **whole)
    with pytest.raises(DataError, match="compressed"):
        CodeArrays.from_bytes(packed.getvalue())
