"""After training: the networks in whole numbers, and the probabilities of the code's bits, counted on train images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from limla.codec_training.crops import whole_image
from limla.codec_training.network import Autoencoder
from limla.codec_training.plan import STEP, CodePlan
from limla.codecs.autoencoder import AutoencoderCodec
from limla.codecs.autoencoder_code import (
    LEANS,
    OWN,
    PHASES,
    SCALE,
    SIGNS,
    BinaryCode,
    Codes,
    Contexts,
    Known,
    lean_context,
    own_context,
    sum_of_features,
)
from limla.codecs.autoencoder_network import KERNELS, LARGEST_WEIGHT, VALUE_BITS, WEIGHT_BITS
from limla.codecs.autoencoder_weights import read_weights, write_weights
from limla.loaders.source import ShardSource
from limla.metrics import psnr_db, rate_bpp
from limla.progress import Progress

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
_COUNTED_IMAGES = 120
_ROWS = 12_000
_FEATURES = 10
_BINS = 12
_LARGEST_CONTEXT_WEIGHT = 1000
_LEAST_PROBABILITY = 4
_MEASURED_IMAGES = 64
_MEASURED_QUALITIES = (1, 8, 16, 24, 32, 40, 48, 56, 64)


def finish(
    model: Autoencoder, plan: CodePlan, train: ShardSource, val: ShardSource, seed: int, progress: Progress
) -> tuple[bytes, list[dict[str, Any]]]:
    """The weights file, and what the codec does on val images at a few qualities."""
    arrays = whole_numbers(model)
    step = round(STEP * (1 << VALUE_BITS))
    empty = _empty_contexts(len(plan.order))
    draft = read_weights(write_weights(plan.order, plan.lengths, step, {**arrays, **vars(empty)}))
    chosen = np.sort(np.random.default_rng((seed, 2)).permutation(train.num_samples)[:_COUNTED_IMAGES])
    grids: list[Codes] = []
    with progress.stage("codes to count", len(chosen)) as advance:
        for index in chosen:
            image = whole_image(train, int(index))
            numbers = np.concatenate([values for _, values in draft.network.analyse(image)])
            grids.append(draft.code.digits(numbers, step, len(plan.lengths) - 1))
            advance(1)
    contexts = count(draft.code, grids, seed, progress)
    weights = write_weights(plan.order, plan.lengths, step, {**arrays, **vars(contexts)})
    return weights, _measure(AutoencoderCodec.from_weights(weights), val, progress)


def whole_numbers(model: Autoencoder) -> dict[str, IntArray]:
    """The networks' weights as `limla.codecs.autoencoder_weights` stores them."""
    found: dict[str, IntArray] = {}
    layers = dict(model.layers())
    for name, kernel in KERNELS.items():
        weights, biases = layers[name]
        rounded = np.clip(np.round(weights * (1 << WEIGHT_BITS)), -LARGEST_WEIGHT, LARGEST_WEIGHT)
        # (out, in, row, column) → (row, column · in, out)
        found[f"{name}.weights"] = (
            rounded.transpose(2, 3, 1, 0).reshape(kernel, -1, len(weights)).astype(np.int64)
        )
        found[f"{name}.biases"] = np.round(biases * (1 << VALUE_BITS)).astype(np.int64)
    weights, biases = layers["synthesise_kept"]
    kept = model.kept.double().cpu().numpy()
    found["known"] = np.round((kept @ weights[:, :, 0, 0].T + biases) * (1 << VALUE_BITS)).astype(np.int64)
    return found


def _empty_contexts(digits: int) -> Contexts:
    return Contexts(
        features=np.zeros((digits, _FEATURES), np.int64),
        weights=np.zeros((digits, PHASES, _FEATURES), np.int64),
        edges=np.zeros((digits, PHASES, _BINS - 1), np.int64),
        other=np.full((digits, PHASES, OWN, _BINS), SCALE // 2, np.int64),
        positive=np.full((digits, PHASES, SIGNS, LEANS), SCALE // 2, np.int64),
    )


def count(code: BinaryCode, grids: Sequence[Codes], seed: int, progress: Progress) -> Contexts:
    """The probabilities of each digit of a code, by what is known before it, counted over grids of codes.

    The features that say whether a digit is other than 0 are those of the largest coefficients of a linear
    regression on all of them.
    """
    contexts = _empty_contexts(len(code.order))
    images = [_Counted(grid, Known(code.channels, *grid.shape[1:])) for grid in grids]
    with progress.stage("counting bits", len(code.order), "digits") as advance:
        for digit, (channel, power) in enumerate(code.order):
            generator = np.random.default_rng((seed, 3, digit))
            for phase in range(PHASES):
                parts = [_Part(image, digit, phase, channel, power) for image in images]
                parts = [part for part in parts if len(part.places)]
                if not parts:
                    continue  # of images of one position
                _regress(contexts, parts, digit, phase, 2 * code.channels + 1, generator)
                _tabulate(contexts, parts, digit, phase)
                for part in parts:
                    part.image.known.update(channel, part.places, part.wanted, power)
            advance(1)
    return contexts


@dataclass
class _Counted:
    grid: Codes
    known: Known


class _Part:
    """One image's positions of one phase, when a digit is about to be coded."""

    def __init__(self, image: _Counted, digit: int, phase: int, channel: int, power: int) -> None:
        self.image = image
        self.places = image.known.phases[phase]
        self.wanted = image.grid[digit].reshape(-1)[self.places].astype(np.int64)
        self.lean = image.known.lean(channel, power)
        self.values = image.known.values[channel, self.places]
        self.own = own_context(self.values, power)


def _regress(
    contexts: Contexts,
    parts: list[_Part],
    digit: int,
    phase: int,
    num_features: int,
    generator: np.random.Generator,
) -> None:
    """Choose the features (in the first phase) and weigh them."""
    total = sum(len(part.places) for part in parts)
    rows, targets = [], []
    for part in parts:
        wanted = max(1, min(len(part.places), round(_ROWS * len(part.places) / total)))
        chosen = generator.permutation(len(part.places))[:wanted]
        numbers = range(num_features) if phase == 0 else contexts.features[digit].tolist()
        places = part.places[chosen]
        rows.append(
            np.stack([part.image.known.feature(number, places, part.lean) for number in numbers], axis=1)
        )
        targets.append(np.abs(part.wanted[chosen]))
    values, target = np.concatenate(rows).astype(np.float64), np.concatenate(targets).astype(np.float64)
    if phase == 0:
        strengths = np.abs(_coefficients(values, target)) * values.std(axis=0)
        best = np.sort(np.argsort(-strengths, kind="stable")[:_FEATURES])
        contexts.features[digit, : len(best)] = best
        values = values[:, contexts.features[digit]]
    weights = _coefficients(values, target)
    largest = np.abs(weights).max()
    if largest > 0:
        contexts.weights[digit, phase] = np.round(weights / largest * _LARGEST_CONTEXT_WEIGHT)


def _coefficients(values: FloatArray, target: FloatArray) -> FloatArray:
    """Of a ridge regression, with the mean left out."""
    centred = values - values.mean(axis=0)
    gram = centred.T @ centred + np.eye(values.shape[1]) * (1e-3 * len(values))
    return np.linalg.solve(gram, centred.T @ (target - target.mean()))


def _tabulate(contexts: Contexts, parts: list[_Part], digit: int, phase: int) -> None:
    scores = [
        sum_of_features(
            part.image.known, contexts.features[digit], contexts.weights[digit, phase], part.places, part.lean
        )
        for part in parts
    ]
    everything = np.concatenate(scores)
    edges = np.quantile(everything, np.linspace(0, 1, _BINS + 1)[1:-1])
    contexts.edges[digit, phase] = np.ceil(edges)
    bins = np.searchsorted(contexts.edges[digit, phase], everything, side="right")
    own = np.concatenate([part.own for part in parts])
    wanted = np.concatenate([part.wanted for part in parts])
    contexts.other[digit, phase] = _probabilities(own * _BINS + bins, np.abs(wanted), (OWN, _BINS))
    signed = wanted != 0
    values = np.concatenate([part.values for part in parts])[signed]
    lean = np.concatenate([part.lean[part.places] for part in parts])[signed]
    places = (np.sign(values) + 1) * LEANS + lean_context(lean)
    contexts.positive[digit, phase] = _probabilities(places, wanted[signed] > 0, (SIGNS, LEANS))


def _probabilities(places: IntArray, happened: npt.NDArray[Any], shape: tuple[int, int]) -> IntArray:
    """How often it happened in each context, in 1 / SCALE; a context hardly seen is drawn to the mean of all."""
    length = shape[0] * shape[1]
    seen = np.bincount(places, minlength=length)
    times = np.bincount(places, weights=happened, minlength=length)
    mean = (times.sum() + 0.5) / (seen.sum() + 1)
    found = np.round((times + 4 * mean) / (seen + 4) * SCALE)
    return np.clip(found, _LEAST_PROBABILITY, SCALE - _LEAST_PROBABILITY).astype(np.int64).reshape(shape)


def _measure(codec: AutoencoderCodec, val: ShardSource, progress: Progress) -> list[dict[str, Any]]:
    """Mean rate and PSNR over val images."""
    number = min(_MEASURED_IMAGES, val.num_samples)
    places = np.linspace(0, val.num_samples - 1, number).round().astype(int)
    found = np.zeros((len(_MEASURED_QUALITIES), 2))
    with progress.stage("rate and PSNR of val images", number) as advance:
        for index in places:
            image = whole_image(val, int(index))
            files = codec.encode_each(image, _MEASURED_QUALITIES)
            for row, data in enumerate(files):
                found[row] += rate_bpp(len(data), *image.shape[:2]), psnr_db(image, codec.decode(data))
            advance(1)
    return [
        {
            "quality": quality,
            "bits": codec.bits_of(quality),
            "rate_bpp": round(float(rate), 4),
            "psnr_db": round(float(psnr), 3),
        }
        for quality, (rate, psnr) in zip(_MEASURED_QUALITIES, found / number, strict=True)
    ]
