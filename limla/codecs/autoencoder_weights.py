"""The weights file of the learned codec: whole numbers and nothing that is run.

offset  bytes  what
0       8      "LIMLA-AE"
8       4      version of the file, 1; little-endian, as every number here
12      4      n, the length of the header
16      n      JSON: {"order": [[channel, power] …], "lengths": […], "step": …,
               "arrays": [[name, type, shape] …]}
16 + n         the arrays one after another, "<i2" or "<i4", in C order
-32     32     SHA-256 of all before
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.codecs.autoencoder_code import (
    BASE,
    LEANS,
    MOST_DIGITS_EACH,
    OWN,
    PHASES,
    SCALE,
    SIGNS,
    BinaryCode,
    Contexts,
)
from limla.codecs.autoencoder_network import (
    KERNELS,
    LARGEST_BIAS,
    LARGEST_VALUE,
    LARGEST_WEIGHT,
    MOST_INPUTS,
    NUM_QUALITIES,
    PATCH,
    WEIGHT_BITS,
    Layer,
    WholeNetwork,
)
from limla.errors import DataError

MAGIC = b"LIMLA-AE"
VERSION = 1
MOST_BYTES = 1 << 27
"""Of a file: no network of these bounds is as large."""
_START = struct.Struct("<8sII")
_DIGEST_BYTES = 32
_TYPES = ("<i2", "<i4")
_MOST_WIDTH = 512
_MOST_DIGITS = 256
_BIAS_UNIT = 1 << WEIGHT_BITS

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Weights:
    """Everything that training settles.

    Attributes:
        network: encoder and decoder.
        code: the order of the digits and their probabilities.
        step: of the finest digit, in the network's whole numbers.
        digest: SHA-256 of the file.
    """

    network: WholeNetwork
    code: BinaryCode
    step: int
    digest: bytes


def write_weights(
    order: tuple[tuple[int, int], ...], lengths: IntArray, step: int, arrays: Mapping[str, IntArray]
) -> bytes:
    """The file of whole numbers that fit; see `read_weights` for the arrays' names and shapes."""
    listed, parts = [], []
    for name, array in arrays.items():
        kind = _TYPES[0] if np.abs(array).max(initial=0) < 1 << 15 else _TYPES[1]
        assert np.abs(array).max(initial=0) < 1 << 31, name
        listed.append([name, kind, list(array.shape)])
        parts.append(array.astype(kind).tobytes())
    values = {
        "order": [list(each) for each in order],
        "lengths": lengths.tolist(),
        "step": step,
        "arrays": listed,
    }
    header = json.dumps(values, separators=(",", ":")).encode()
    body = b"".join((_START.pack(MAGIC, VERSION, len(header)), header, *parts))
    return body + hashlib.sha256(body).digest()


def read_weights(data: bytes) -> Weights:
    """What a weights file holds.

    Raises `DataError` for a file that is another, of a later version, damaged, longer than `MOST_BYTES`, or holds
    numbers for which the networks' sums would not be exact.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"{len(data)} bytes are too many for weights of the codec 'autoencoder'")
    if len(data) < _START.size + _DIGEST_BYTES or data[: len(MAGIC)] != MAGIC:
        raise DataError("not a weights file of the codec 'autoencoder': limla codec train writes one")
    _, version, num_header = _START.unpack_from(data)
    if version != VERSION:
        raise DataError(
            f"weights of version {version}, and this limla reads version {VERSION}: use a later limla"
        )
    if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise DataError("a weights file that is damaged or cut off: its SHA-256 differs")
    try:
        start = _START.size + num_header
        header = json.loads(data[_START.size : start].decode("utf-8"))
        order = tuple((int(channel), int(power)) for channel, power in header["order"])
        lengths = np.array([int(length) for length in header["lengths"]], np.int64)
        step = int(header["step"])
        arrays = _arrays(header["arrays"], memoryview(data)[start:-_DIGEST_BYTES])
        _check_order(order, lengths, step)
        channels = 1 + max(channel for channel, _ in order)
        network = _network(arrays, channels)
        code = BinaryCode(order, lengths, _contexts(arrays, len(order), channels))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"a weights file that limla did not write ({type(error).__name__}: {reason})"
        ) from error
    return Weights(network, code, step, hashlib.sha256(data).digest())


def _arrays(listed: Any, body: memoryview) -> dict[str, IntArray]:
    found: dict[str, IntArray] = {}
    start = 0
    for name, kind, shape in listed:
        if kind not in _TYPES or not all(isinstance(side, int) and side > 0 for side in shape):
            raise ValueError(f"array '{name}'")
        count = math.prod(shape)
        end = start + count * np.dtype(kind).itemsize
        if end > len(body):
            raise ValueError(f"array '{name}' goes beyond the end")
        found[name] = np.frombuffer(body[start:end], kind).astype(np.int64).reshape(shape)
        start = end
    if start != len(body):
        raise ValueError(f"{len(body) - start} bytes too many")
    return found


def _check_order(order: tuple[tuple[int, int], ...], lengths: IntArray, step: int) -> None:
    """Each number's digits come one after another, the most significant first; each quality keeps more of them."""
    last: dict[int, int] = {}
    for channel, power in order:
        if not (0 <= channel < PATCH and 0 <= power < MOST_DIGITS_EACH):
            raise ValueError(f"digit {power} of number {channel}")
        if last.get(channel, power + 1) != power + 1:
            raise ValueError(f"digit {power} of number {channel} comes after digit {last[channel]}")
        last[channel] = power
    if lengths.shape != (NUM_QUALITIES + 1,) or lengths[0] != 0 or (np.diff(lengths) <= 0).any():
        raise ValueError("the qualities' digits do not grow")
    if not lengths[-1] == len(order) <= _MOST_DIGITS:
        raise ValueError(f"{len(order)} digits")
    if not 1 <= step <= LARGEST_VALUE // BASE**MOST_DIGITS_EACH:
        raise ValueError(f"a step of {step}")


def _network(arrays: Mapping[str, IntArray], channels: int) -> WholeNetwork:
    width = _shape(arrays["known"], NUM_QUALITIES + 1, None)[1]
    if width > _MOST_WIDTH:
        raise ValueError(f"{width} channels")
    sides = {
        "analyse_patch": (PATCH, channels),
        "analyse_in": (PATCH, width),
        "analyse_out": (width, channels),
        "synthesise_patch": (channels, PATCH),
        "synthesise_in": (channels, width),
        "synthesise_mid": (width, width),
        "synthesise_add": (width, width),
        "synthesise_out": (width, PATCH),
    }
    layers: dict[str, Layer] = {}
    for name, (num_in, num_out) in sides.items():
        kernel = KERNELS[name]
        assert kernel**2 * num_in <= MOST_INPUTS
        weights, biases = arrays[f"{name}.weights"], arrays[f"{name}.biases"] * _BIAS_UNIT
        _shape(weights, kernel, kernel * num_in, num_out)
        _shape(biases, num_out)
        if np.abs(weights).max() > LARGEST_WEIGHT or np.abs(biases).max() > LARGEST_BIAS:
            raise ValueError(f"'{name}' has weights too large")
        layers[name] = Layer(weights.astype(np.float64), biases.astype(np.float64))
    known = arrays["known"] * _BIAS_UNIT
    if np.abs(known).max() > LARGEST_BIAS:
        raise ValueError("'known' is too large")
    return WholeNetwork(layers, known.astype(np.float64))


def _contexts(arrays: Mapping[str, IntArray], digits: int, channels: int) -> Contexts:
    found = Contexts(**{name: arrays[name] for name in ("features", "weights", "edges", "other", "positive")})
    num_features = _shape(found.features, digits, None)[1]
    num_edges = _shape(found.edges, digits, PHASES, None)[2]
    _shape(found.weights, digits, PHASES, num_features)
    _shape(found.other, digits, PHASES, OWN, num_edges + 1)
    _shape(found.positive, digits, PHASES, SIGNS, LEANS)
    if found.features.min() < 0 or found.features.max() > 2 * channels:
        raise ValueError("a feature that there is not")
    for probabilities in (found.other, found.positive):
        if probabilities.min() <= 0 or probabilities.max() >= SCALE:
            raise ValueError("a probability outside 0 to 1")
    if (np.diff(found.edges, axis=2) < 0).any():
        raise ValueError("edges that fall")
    return found


def _shape(array: IntArray, *sides: int | None) -> tuple[int, ...]:
    """The array's shape, which must be `sides`; None is any."""
    if array.ndim != len(sides) or any(
        side not in (None, there) for side, there in zip(sides, array.shape, strict=True)
    ):
        raise ValueError(f"an array of shape {array.shape} instead of {sides}")
    return array.shape
