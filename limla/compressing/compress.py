"""A folder of pictures → the same tree of files of one codec."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from limla.codecs import build_codec, codec_label, codec_name, codec_scale
from limla.codecs.base import MAX_PIXELS, WEIGHTS, Codec, Learned
from limla.codecs.matching import BPP, RATE_SCALE, THOUSANDTHS, RateMatched
from limla.engines import build_engine
from limla.engines.base import Engine
from limla.errors import SettingsError
from limla.manifest import library_versions
from limla.metrics import psnr_db, rate_bpp
from limla.pictures.policies import pixels_in_turn
from limla.pictures.walking import PICTURE_SUFFIXES, stem_and_suffix
from limla.progress import SILENT, Progress
from limla.trees import Row, TreeResult, convert_tree, find_sources
from limla.trees.folder import ResultFolder
from limla.trees.sources import check_apart

COMMAND = "compress"
NEAR = 0.1
"""A rate that was asked for is met where the file's differs by no more than this part of it."""


@dataclass(frozen=True)
class CompressSettings:
    """What to compress to; checked when it is made.

    Attributes:
        codec: a codec's text, "jpeg:subsampling=444".
        quality: on the codec's scale; for "<name>-bpp" thousandths of a bit per pixel.
        measure: decode each file again and record its PSNR.
    """

    codec: str
    quality: int
    measure: bool = False

    def __post_init__(self) -> None:
        codec_scale(self.codec).check(self.quality)

    @property
    def target_bpp(self) -> float | None:
        """The bits per pixel that are asked for; None where it is a quality."""
        return self.quality / THOUSANDTHS if codec_name(self.codec).endswith(BPP) else None

    @classmethod
    def at_rate(cls, codec: str, bpp: float, measure: bool = False) -> CompressSettings:
        """Each picture at the quality of `codec` whose file comes nearest to `bpp` bits per pixel.

        Raises `SettingsError` for a rate that no codec can have.
        """
        highest = RATE_SCALE.highest / THOUSANDTHS
        if not (math.isfinite(bpp) and RATE_SCALE.lowest / THOUSANDTHS <= bpp <= highest):
            raise SettingsError(f"{bpp:g} bits per pixel: choose 0.001 to {highest:g}")
        name = codec_name(codec)
        _, colon, knobs = codec.partition(":")
        if name.endswith(BPP):
            raise SettingsError(f"codec '{codec}' with a rate: write '{name.removesuffix(BPP)}' beside it")
        return cls(f"{name}{BPP}{colon}{knobs}", round(THOUSANDTHS * bpp), measure)


@dataclass(frozen=True)
class _ToCodec:
    """Picture files → a codec's files."""

    codec: Codec
    quality: int
    measure: bool
    columns: ClassVar[Mapping[str, type]] = {
        "file": str,
        "height": int,
        "width": int,
        "rate_bpp": float,
        "psnr_db": float,
    }

    def names(self, source: str, row: Row) -> tuple[str]:
        """One."""
        del row
        folder, slash, _ = source.rpartition("/")
        return (f"{folder}{slash}{stem_and_suffix(source)[0]}.{self.codec.extension}",)

    def convert(self, source: str, data: bytes, write: Callable[[str, bytes], None]) -> Row:
        """Encode one picture."""
        with pixels_in_turn(data, MAX_PIXELS, convert_profiles=True) as image:
            encoded = self.codec.encode(image, self.quality)
            distortion = psnr_db(image, self.codec.decode(encoded)) if self.measure else None
            height, width = image.shape[:2]
        (name,) = self.names(source, {})
        write(name, encoded)
        return {
            "file": name,
            "height": height,
            "width": width,
            "rate_bpp": rate_bpp(len(encoded), height, width),
            "psnr_db": distortion,
        }


def compress(
    source: Path,
    folder: Path,
    settings: CompressSettings,
    progress: Progress = SILENT,
    engine: Engine | None = None,
) -> TreeResult:
    """Encode every picture under `source`, or the one that it is, to `folder`, with the same relative paths.

    Pictures become upright 8-bit sRGB first, by the policies of packing; since a codec's files carry no colour
    profile, pixels with one are converted by it. See `limla.trees.stage.convert_tree` for what a second run does.

    Raises `DataError` where there is nothing to compress or names would clash, `SettingsError` for a folder that
    cannot take the results, `OSError` for a full disk.
    """
    codec = build_codec(settings.codec)
    check_apart(source, folder)
    sources = find_sources(source, PICTURE_SUFFIXES, "pictures")
    conversion = _ToCodec(codec, settings.quality, settings.measure)
    recorded = {
        "codec": codec_label(settings.codec),
        "knob": codec.scale.knob,
        "quality": settings.quality,
        "measure": settings.measure,
        "profiles": "convert",
        **{f"codec {name}": value for name, value in codec.settings().items()},
    }
    versions = {**library_versions(("numpy", "pillow", "simplejpeg")), "codec": codec.version()}
    target = ResultFolder(folder, COMMAND, conversion, recorded, versions, _companions(codec))
    title = f"compressing to {settings.codec.partition(':')[0]} at {codec.scale.knob} {settings.quality}"
    summarise = functools.partial(_summary, settings.target_bpp)
    return convert_tree(
        sources, target, conversion, summarise, progress, engine or build_engine("local"), title
    )


def _companions(codec: Codec) -> dict[str, bytes]:
    """Of a learned codec, what `limla decompress` needs beside the files."""
    plain = codec.codec if isinstance(codec, RateMatched) else codec
    return {WEIGHTS: plain.weights_bytes()} if isinstance(plain, Learned) else {}


def _summary(target_bpp: float | None, rows: Sequence[Row]) -> dict[str, Any]:
    """Totals of the pictures that were compressed; of a rate that was asked for, how many did not come near it."""
    distortions = [row["psnr_db"] for row in rows if isinstance(row["psnr_db"], float)]
    found = {
        "pictures": len(rows),
        "source_num_bytes": sum(int(row["source_num_bytes"] or 0) for row in rows),
        "num_bytes": sum(int(row["num_bytes"] or 0) for row in rows),
        "mean_rate_bpp": fmean(float(row["rate_bpp"] or 0) for row in rows),
        "mean_psnr_db": fmean(distortions) if distortions and all(map(math.isfinite, distortions)) else None,
    }
    if target_bpp is not None:
        off = (abs(float(row["rate_bpp"] or 0) - target_bpp) > NEAR * target_bpp for row in rows)
        found |= {"target_bpp": target_bpp, "off_target": sum(off)}
    return found
