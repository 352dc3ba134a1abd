"""What the shard folders say: manifests, and rate and distortion per variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from limla.codecs import higher_is_better
from limla.codecs.decoding import is_learned
from limla.errors import DataError
from limla.manifest import Manifest, list_variants, read_manifest
from limla.paths import AnyPath
from limla.results import read_table
from limla.storage import exists

Variant = tuple[str, int | None]
"""(codec, quality); ("source", None) for the originals."""


@dataclass(frozen=True)
class EncodingSummary:
    """Rate of one variant's images in one split, and distortion over those measured in any split.

    Which images are measured (`limla reencode --measure 256`) is drawn over all splits; few of them may lie in the
    one evaluated, and what a quality does to the pixels does not depend on the split. That of a learned codec does,
    which was trained on some of them: there distortion, too, is over the split's own.

    Attributes:
        num_images: images the rate is taken over: all of the split.
        mean_num_bytes: mean file size.
        mean_rate_bpp, median_rate_bpp, low_rate_bpp, high_rate_bpp: of the images' bits per pixel; low and high
            are the 5th and 95th percentile.
        num_measured: images with a measured PSNR: of all splits, for a learned codec of this one.
        num_identical: of these, images with infinite PSNR (no pixel differs).
        mean_psnr_db, median_psnr_db: over the measured images of finite PSNR; None when there is none.
        mean_ssim, median_ssim: over the images with a measured SSIM; None when there is none.
    """

    num_images: int
    mean_num_bytes: float
    mean_rate_bpp: float
    median_rate_bpp: float
    low_rate_bpp: float
    high_rate_bpp: float
    num_measured: int
    num_identical: int
    mean_psnr_db: float | None
    median_psnr_db: float | None
    mean_ssim: float | None
    median_ssim: float | None


@dataclass(frozen=True)
class DataFolder:
    """One dataset's shard folders.

    Attributes:
        path: the folder.
        manifests: of every complete variant, in `list_variants` order.
        encodings: EncodingRows of the variants that have them.
    """

    path: AnyPath
    manifests: dict[Variant, Manifest]
    encodings: dict[Variant, pa.Table]
    _summaries: dict[tuple[Variant, str], EncodingSummary | None] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> Manifest:
        """The originals' manifest, or the first there is."""
        return next(iter(self.manifests.values()))

    def summary(self, variant: Variant, split: str) -> EncodingSummary | None:
        """Rate of a variant over a split, distortion over all; None when the variant has no rows of the split."""
        if (variant, split) not in self._summaries:
            table = self.encodings.get(variant)
            learned = is_learned(variant[0])
            self._summaries[variant, split] = None if table is None else summarise(table, split, learned)
        return self._summaries[variant, split]


def read_data_folders(data_dirs: Sequence[AnyPath]) -> dict[str, DataFolder]:
    """Dataset name → its shard folders.

    Raises `DataError` for a folder without any complete variant, a damaged manifest or Parquet file, or two
    folders of one dataset name.
    """
    found: dict[str, DataFolder] = {}
    for path in data_dirs:
        names = list_variants(path)
        if not names:
            raise DataError(
                f"{path}: no shard folders there; give --data-dir the folder that holds 'source' and "
                "'<codec>-q<quality>', or leave it out"
            )
        manifests: dict[Variant, Manifest] = {}
        encodings: dict[Variant, pa.Table] = {}
        for name in names:
            manifest = read_manifest(path / name)
            variant = (manifest.codec, manifest.quality)
            manifests[variant] = manifest
            if exists(path / name / "encoding.parquet"):
                encodings[variant] = _read_encoding(path / name / "encoding.parquet")
        folder = DataFolder(path, manifests, encodings)
        if folder.first.dataset in found:
            raise DataError(
                f"{path} and {found[folder.first.dataset].path} both hold a dataset named "
                f"'{folder.first.dataset}': give one of them"
            )
        found[folder.first.dataset] = folder
    return found


def _read_encoding(path: AnyPath) -> pa.Table:
    table = read_table(path)
    missing = {"split", "num_bytes", "rate_bpp", "psnr_db", "ssim"} - set(table.column_names)
    if missing:
        raise DataError(f"{path}: no columns {', '.join(sorted(missing))}; remove the folder and make it again")
    return table


def summarise(table: pa.Table, split: str, learned: bool = False) -> EncodingSummary | None:
    """The summary of a variant's EncodingRows (of all splits); None where none is of `split`.

    `learned`: of a learned codec, whose distortion is taken over the split alone.
    """
    of_split = table.filter(pc.field("split") == split)
    if not of_split.num_rows:
        return None
    if learned:
        table = of_split
    rates = _column(of_split, "rate_bpp")
    psnr = _column(table, "psnr_db")
    measured = psnr[~np.isnan(psnr)]
    finite = measured[np.isfinite(measured)]
    similarity = _column(table, "ssim")
    similarity = similarity[~np.isnan(similarity)]
    low, high = np.quantile(rates, [0.05, 0.95])
    return EncodingSummary(
        num_images=len(rates),
        mean_num_bytes=float(_column(of_split, "num_bytes").mean()),
        mean_rate_bpp=float(rates.mean()),
        median_rate_bpp=float(np.median(rates)),
        low_rate_bpp=float(low),
        high_rate_bpp=float(high),
        num_measured=len(measured),
        num_identical=len(measured) - len(finite),
        mean_psnr_db=_mean(finite),
        median_psnr_db=_median(finite),
        mean_ssim=_mean(similarity),
        median_ssim=_median(similarity),
    )


def _column(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """A column as float64; null becomes NaN."""
    return table[name].cast(pa.float64()).to_numpy().astype(np.float64)


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _median(values: npt.NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None


def quality_order(variant: Variant) -> tuple[int, str, float]:
    """Sort key: by codec, from the worst quality to the best, the originals last."""
    codec, quality = variant
    return (1, "", math.inf) if quality is None else (0, codec, quality_rank(variant))


def quality_rank(variant: Variant) -> float:
    """Rises with the quality of a codec's variants, whichever way its knob turns; infinite for the originals."""
    codec, quality = variant
    if quality is None:
        return math.inf
    return quality if higher_is_better(codec) else -quality
