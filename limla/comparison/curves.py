"""Rows → curves of distortion against rate, and what lies between a codec's curve and the reference's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limla.comparison.measuring import ComparisonRow
from limla.statistics import Interval, bd_interval, bd_metrics
from limla.statistics.crossed import crossed_mean

FloatArray = npt.NDArray[np.float64]
LEAST_OVERLAP = 0.1
"""Of the PSNR (or log rate) that either curve reaches: codecs as different as JPEG and a low-rank one share little."""
FEWEST_PHOTOS = 5
"""Fewer say nothing of others: there is no interval."""
UNCHANGED = "photos come back unchanged"
LEAST_GAP_DB = 0.1
"""Curves that come no further apart do not count as crossed: interpolation between points is no surer than that."""
_NUM_RESAMPLES = 1000
_GRID = 512


@dataclass(frozen=True)
class QualityMean:
    """One codec at one quality: means over the photos.

    Attributes:
        codec, quality: label and knob.
        num_images: photos.
        mean_rate_bpp: headers included.
        mean_psnr_db: of the photos whose pixels changed; None where none did.
        num_identical: photos whose pixels did not change.
        mean_ssim, mean_ms_ssim: of the photos that are large enough; None where none is.
        num_ms_ssim: photos large enough for MS-SSIM.
        encode_images_per_s, encode_mpix_per_s, decode_images_per_s, decode_mpix_per_s: per second of CPU time: what
            one core does.
    """

    codec: str
    quality: int
    num_images: int
    mean_rate_bpp: float
    mean_psnr_db: float | None
    num_identical: int
    mean_ssim: float | None
    mean_ms_ssim: float | None
    num_ms_ssim: int
    encode_images_per_s: float
    encode_mpix_per_s: float
    decode_images_per_s: float
    decode_mpix_per_s: float


@dataclass(frozen=True)
class CodecDifference:
    """A codec's curve against the reference's.

    Attributes:
        codec, reference: labels.
        bd_rate_percent: of the mean curves, with its 95% bootstrap interval over the photos; below 0: the codec
            needs fewer bits at equal PSNR. None where refused.
        bd_psnr_db: of the mean curves, with its interval; above 0: more PSNR at equal rate.
        image_bd_rate_percent: mean of each photo's own BD-rate, with its interval by Student's t, over `num_compared`
            of `num_images` photos: those whose curves can be compared.
        psnr_low_db, psnr_high_db: what both mean curves reach, where bd_rate_percent looks; None where nothing.
        rate_low_bpp, rate_high_bpp: the rates that both reach, where bd_psnr_db looks.
        better_share: share of those rates (on a logarithmic scale) at which the codec has more PSNR, in [0, 1].
        largest_gap_db: how far the codec's mean curve lies above the reference's (below 0: under it) where they are
            furthest apart over those rates; None where nothing is shared.
        reason: why a value is None; "" where none is.
    """

    codec: str
    reference: str
    bd_rate_percent: float | None
    bd_rate_low: float | None
    bd_rate_high: float | None
    bd_psnr_db: float | None
    bd_psnr_low: float | None
    bd_psnr_high: float | None
    image_bd_rate_percent: float | None
    image_bd_rate_low: float | None
    image_bd_rate_high: float | None
    num_compared: int
    num_images: int
    psnr_low_db: float | None
    psnr_high_db: float | None
    rate_low_bpp: float | None
    rate_high_bpp: float | None
    better_share: float | None
    largest_gap_db: float | None
    reason: str


@dataclass(frozen=True)
class Crossing:
    """Where a codec's mean curve crosses the reference's: `better` is the side, "below" or "above" this rate, on which
    the codec has more PSNR."""

    codec: str
    reference: str
    rate_bpp: float
    psnr_db: float
    better: str


@dataclass(frozen=True)
class Curve:
    """A codec's rows as arrays.

    Attributes:
        codec: label.
        qualities: (Q,) from the lowest mean rate to the highest.
        rates, psnrs: (Q, N) bits per pixel and dB, of the same N photos for every codec.
    """

    codec: str
    qualities: tuple[int, ...]
    rates: FloatArray
    psnrs: FloatArray

    def finite(self) -> Curve:
        """Without the qualities at which a photo came back unchanged: infinite PSNR has no mean."""
        is_finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(self.psnrs).all(axis=1))
        kept = tuple(quality for quality, flag in zip(self.qualities, is_finite, strict=True) if flag)
        return Curve(self.codec, kept, self.rates[is_finite], self.psnrs[is_finite])


def curve_of(codec: str, parts: dict[int, list[ComparisonRow]]) -> Curve:
    """The curve of quality → rows, the same photos in the same order in each."""
    order = sorted(parts, key=lambda quality: float(np.mean([row.rate_bpp for row in parts[quality]])))
    assert len({tuple(row.image for row in rows) for rows in parts.values()}) == 1
    return Curve(
        codec,
        tuple(order),
        np.array([[row.rate_bpp for row in parts[quality]] for quality in order]),
        np.array([[row.psnr_db for row in parts[quality]] for quality in order]),
    )


def quality_mean(rows: Sequence[ComparisonRow]) -> QualityMean:
    """The means of one codec at one quality."""
    first = rows[0]
    pixels = sum(row.height * row.width for row in rows) / 1e6
    encode_s, decode_s = (sum(getattr(row, name) for row in rows) for name in ("encode_cpu_s", "decode_cpu_s"))
    return QualityMean(
        codec=first.codec,
        quality=first.quality,
        num_images=len(rows),
        mean_rate_bpp=float(np.mean([row.rate_bpp for row in rows])),
        mean_psnr_db=_mean([row.psnr_db for row in rows]),
        num_identical=sum(math.isinf(row.psnr_db) for row in rows),
        mean_ssim=_mean([row.ssim for row in rows]),
        mean_ms_ssim=_mean([row.ms_ssim for row in rows]),
        num_ms_ssim=sum(row.ms_ssim is not None for row in rows),
        encode_images_per_s=len(rows) / encode_s,
        encode_mpix_per_s=pixels / encode_s,
        decode_images_per_s=len(rows) / decode_s,
        decode_mpix_per_s=pixels / decode_s,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known and finite."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def difference(curve: Curve, reference: Curve, seed: int = 0) -> CodecDifference:
    """Bjøntegaard's deltas of a codec against the reference; never beyond what both curves reach."""
    one, other = reference.finite(), curve.finite()
    means = [values.mean(axis=1) for values in (one.rates, one.psnrs, other.rates, other.psnrs)]
    result = bd_metrics(*means, min_overlap=LEAST_OVERLAP)
    rate_interval = psnr_interval = Interval(math.nan, math.nan)
    is_known = result.bd_rate_percent is not None or result.bd_score is not None
    if is_known and curve.rates.shape[1] >= FEWEST_PHOTOS:
        found = bd_interval(
            one.rates, one.psnrs[:, None], other.rates, other.psnrs[:, None],
            num_resamples=_NUM_RESAMPLES, seed=seed, min_overlap=LEAST_OVERLAP,
        )  # fmt: skip
        rate_interval, psnr_interval = found.bd_rate_percent, found.bd_score
    known = _image_bd_rates(one, other)
    image_interval = _mean_interval(known)
    found_gap = _gap(other, one)
    psnr_low, psnr_high = _shared(means[1], means[3])
    rate_low, rate_high = _shared(means[0], means[2])
    return CodecDifference(
        codec=curve.codec,
        reference=reference.codec,
        bd_rate_percent=result.bd_rate_percent,
        bd_rate_low=_known(rate_interval.low),
        bd_rate_high=_known(rate_interval.high),
        bd_psnr_db=result.bd_score,
        bd_psnr_low=_known(psnr_interval.low),
        bd_psnr_high=_known(psnr_interval.high),
        image_bd_rate_percent=float(known.mean()) if len(known) else None,
        image_bd_rate_low=_known(image_interval.low),
        image_bd_rate_high=_known(image_interval.high),
        num_compared=len(known),
        num_images=curve.rates.shape[1],
        psnr_low_db=psnr_low,
        psnr_high_db=psnr_high,
        rate_low_bpp=rate_low,
        rate_high_bpp=rate_high,
        better_share=None if found_gap is None else float((found_gap[2] > 0).mean()),
        largest_gap_db=None if found_gap is None else float(max(found_gap[2], key=abs)),
        reason=result.reason.replace("BD-score", "BD-PSNR") if other.qualities else UNCHANGED,
    )


def _image_bd_rates(reference: Curve, curve: Curve) -> FloatArray:
    """The BD-rate of each photo whose own curves can be compared, in %."""
    found = [
        bd_metrics(*points, min_overlap=LEAST_OVERLAP).bd_rate_percent
        for points in zip(reference.rates.T, reference.psnrs.T, curve.rates.T, curve.psnrs.T, strict=True)
    ]
    return np.array([value for value in found if value is not None], np.float64)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean_interval(values: FloatArray) -> Interval:
    """The 95% interval of a mean of photos' BD-rates in %, by Student's t; NaN of too few values.

    On the scale of log(1 + value / 100), as `bd_interval`'s, so that no end falls below -100%; the standard error is
    taken there by its first derivative (the delta method).
    """
    if len(values) < FEWEST_PHOTOS:
        return Interval(math.nan, math.nan)
    found = crossed_mean(values[None])
    centre = math.log1p(found.mean / 100)
    half = found.critical(0.95) * found.standard_error / (100 + found.mean)
    return Interval(*(100 * math.expm1(end) for end in (centre - half, centre + half)))


def _shared(one: FloatArray, other: FloatArray) -> tuple[float, float] | tuple[None, None]:
    """The range that both reach."""
    if not (one.size and other.size):
        return None, None
    low, high = max(one.min(), other.min()), min(one.max(), other.max())
    return (float(low), float(high)) if low < high else (None, None)


def _gap(curve: Curve, reference: Curve) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """(G,) log2 rates over what both mean curves reach, the codec's PSNR, and how far it lies above the reference's.

    Between points PCHIP over the logarithm of the rate, as in the Bjøntegaard deltas; None where nothing is shared.
    """
    from scipy.interpolate import PchipInterpolator

    low, high = _shared(curve.rates.mean(axis=1), reference.rates.mean(axis=1))
    if low is None or high is None or min(len(curve.rates), len(reference.rates)) < 2:
        return None
    logs = np.linspace(math.log2(low), math.log2(high), _GRID)
    values = []
    for each in (curve, reference):
        places = np.log2(each.rates.mean(axis=1))
        if (np.diff(places) <= 0).any():
            return None
        values.append(np.asarray(PchipInterpolator(places, each.psnrs.mean(axis=1))(logs)))
    return logs, values[0], values[0] - values[1]


def crossings(curve: Curve, reference: Curve) -> list[Crossing]:
    """Where the mean curves cross, from the lowest rate on."""
    found = _gap(curve.finite(), reference.finite())
    if found is None:
        return []
    logs, psnrs, gaps = found
    clear = np.flatnonzero(np.abs(gaps) >= LEAST_GAP_DB)
    rows = []
    for before, after in itertools.pairwise(clear):
        if (gaps[before] > 0) == (gaps[after] > 0):
            continue
        # between the two one curve passes the other; a straight line between two of the grid's points is enough
        place = before + int(np.flatnonzero((gaps[before:after] > 0) != (gaps[before + 1 : after + 1] > 0))[-1])
        share = gaps[place] / (gaps[place] - gaps[place + 1])
        rate = 2 ** (logs[place] + share * (logs[place + 1] - logs[place]))
        psnr = psnrs[place] + share * (psnrs[place + 1] - psnrs[place])
        better = "below" if gaps[before] > 0 else "above"
        rows.append(Crossing(curve.codec, reference.codec, float(rate), float(psnr), better))
    return rows
