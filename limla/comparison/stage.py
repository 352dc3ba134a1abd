"""The stage: photos, codecs and qualities; one file for each finished part; tables and the page."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limla.comparison.choosing import REFERENCE, Contender, contenders, spread_qualities
from limla.comparison.curves import (
    CodecDifference,
    Crossing,
    QualityMean,
    crossings,
    curve_of,
    difference,
    quality_mean,
)
from limla.comparison.measuring import ComparisonRow, measure, row_table, warm_up
from limla.comparison.page import write_page
from limla.comparison.photos import DrawnPhoto, draw, find_photos
from limla.comparison.record import LOCK, agree, check_own, read_object
from limla.comparison.settings import CompareSettings
from limla.comparison.tables import write_tables
from limla.errors import DataError
from limla.files import exclusive, remove_unfinished, write_json
from limla.manifest import check_settings
from limla.progress import SILENT, Progress
from limla.results import read_table, write_table
from limla.trees.sources import check_apart

_PLAN, _PARTS = "plan.json", "parts"
_PLANNING_IMAGES = 3
"""So many photos decide the qualities: rates of a codec's qualities stand in about the same order for all."""


@dataclass(frozen=True)
class CompareResult:
    """What a comparison found.

    Attributes:
        page: the HTML page.
        means: one for each codec and quality, codecs in the order compared, from the lowest rate.
        differences: one for each codec but the reference.
        crossings: of the curves with the reference's.
        left_out: codec of the catalogue → why it was not compared.
        num_images: photos.
    """

    page: Path
    means: list[QualityMean]
    differences: list[CodecDifference]
    crossings: list[Crossing]
    left_out: dict[str, str]
    num_images: int


@dataclass(frozen=True)
class _Part:
    """A codec at a quality, and the file of its rows."""

    contender: Contender
    quality: int
    path: Path


def compare(settings: CompareSettings, progress: Progress = SILENT) -> CompareResult:
    """Measure every codec at every quality on the same photos and write rows, tables and the page.

    Goes on where an interrupted run stopped: a codec at a quality is a part, and its file's presence means it is done.
    Other codecs may be added later.

    Raises `SettingsError` when the output folder lies among the photos, holds files of others, was made from other
    photos, with other settings or versions or on another machine, or another process is at work on it, and as
    `build_codec` for a codec asked for by its text; `DataError` where there are no photos, and for a damaged part.
    """
    folder = settings.output_dir
    check_apart(settings.folder, folder)
    check_own(folder)
    chosen, left_out = contenders(settings.codecs)
    for name, reason in left_out.items():
        progress.say(f"left out: {name}: {reason}")
    photos, refused = draw(find_photos(settings.folder, settings.split), settings.num_images, settings.seed)
    for reason in refused:
        progress.say(f"passed over: {reason}")
    if len(photos) < settings.num_images:
        progress.say(f"{len(photos)} photos there, {settings.num_images} were asked for")
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / LOCK, "limla codecs compare"):
        agree(folder, settings, photos)
        plans = _plan(settings, chosen, photos, progress)
        _measure(settings, [part for parts in plans for part in parts], photos, progress)
        rows = [{part.quality: _read(part, photos) for part in parts} for parts in plans]
        return _finish(settings, chosen, rows, left_out, len(photos))


def _plan(
    settings: CompareSettings, chosen: Sequence[Contender], photos: Sequence[DrawnPhoto], progress: Progress
) -> list[list[_Part]]:
    """The parts of each codec; its qualities are chosen once and then kept."""
    folders = [settings.output_dir / _PARTS / _slug(contender.label) for contender in chosen]
    images = []
    if not all((folder / _PLAN).exists() for folder in folders):
        images = [drawn.photo.pixels() for drawn in photos[:: -(-len(photos) // _PLANNING_IMAGES)]]
    plans: list[list[_Part]] = []
    with progress.stage("choosing qualities", len(chosen), "codecs") as advance:
        for contender, folder in zip(chosen, folders, strict=True):
            if folder.exists():
                remove_unfinished(folder)
            record = {
                "codec": contender.label,
                "settings": contender.codec.settings(),
                "version": contender.codec.version(),
            }
            path = folder / _PLAN
            if path.exists():
                plan = read_object(path)
                check_settings(folder, _flat({name: plan.get(name) for name in record}), _flat(record))
                qualities = _planned(path, plan, contender)
            else:
                num_points = settings.num_points
                if contender.label == REFERENCE:  # every other curve is held against it
                    num_points = 2 * num_points - 1
                qualities = spread_qualities(contender.codec, images, num_points, settings.rates_bpp)
                write_json(path, {**record, "qualities": qualities})
            plans.append([_Part(contender, quality, folder / f"q{quality}.parquet") for quality in qualities])
            advance(1)
    return plans


def _planned(path: Path, plan: dict[str, Any], contender: Contender) -> tuple[int, ...]:
    """The qualities of a plan; raises `DataError` where they are not those of a plan."""
    found = plan.get("qualities")
    scale = contender.codec.scale.from_worst()
    if not isinstance(found, list) or not found or not all(quality in scale for quality in found):
        raise DataError(f"{path}: no list of {contender.label}'s qualities; remove {path.parent} and run again")
    return tuple(found)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """With each setting by its own name, so that an error names the one that differs."""
    settings = record["settings"] if isinstance(record["settings"], dict) else {}
    return {**{name: record[name] for name in ("codec", "version")}, **settings}


def _slug(label: str) -> str:
    """A folder's name for a codec's label."""
    return re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-")


def _measure(
    settings: CompareSettings, parts: Sequence[_Part], photos: Sequence[DrawnPhoto], progress: Progress
) -> None:
    """Make the parts that are not there yet."""
    missing = [part for part in parts if not part.path.exists()]
    if not missing:
        return
    workers = settings.workers or len(os.sched_getaffinity(0))
    first = photos[0].photo.pixels()
    warm: set[str] = set()
    with (
        _threads(workers) as pool,
        progress.stage("measuring", len(missing) * len(photos)) as advance,
    ):
        for part in missing:
            if part.contender.label not in warm:
                warm_up(part.contender, part.quality, first)
                warm.add(part.contender.label)
            rows = measure(part.contender, part.quality, photos, pool, advance)
            write_table(part.path, row_table(rows))


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that forget what waits when the block ends with an error or Ctrl-C."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _read(part: _Part, photos: Sequence[DrawnPhoto]) -> list[ComparisonRow]:
    """A part's rows; raises `DataError` unless they are those of the photos, in order, by its codec at its quality."""
    try:
        rows = [ComparisonRow(**row) for row in read_table(part.path).to_pylist()]
    except TypeError as error:
        raise DataError(f"{part.path}: not a part of this version; remove it and run again") from error
    wanted = [(drawn.photo.name, part.contender.label, part.quality) for drawn in photos]
    if [(row.image, row.codec, row.quality) for row in rows] != wanted:
        raise DataError(
            f"{part.path}: not a row for each of the {len(wanted)} photos ({len(rows)} rows); remove it and run again"
        )
    return rows


def _finish(
    settings: CompareSettings,
    chosen: Sequence[Contender],
    parts: Sequence[dict[int, list[ComparisonRow]]],
    left_out: dict[str, str],
    num_images: int,
) -> CompareResult:
    curves = [curve_of(contender.label, rows) for contender, rows in zip(chosen, parts, strict=True)]
    reference = next(curve for curve in curves if curve.codec == REFERENCE)
    others = [curve for curve in curves if curve is not reference]
    result = CompareResult(
        page=settings.output_dir / "comparison.html",
        means=[
            quality_mean(rows[quality])
            for curve, rows in zip(curves, parts, strict=True)
            for quality in curve.qualities
        ],
        differences=[difference(curve, reference) for curve in others],
        crossings=[crossing for curve in others for crossing in crossings(curve, reference)],
        left_out=left_out,
        num_images=num_images,
    )
    every = [row for rows in parts for quality in rows for row in rows[quality]]
    write_tables(settings.output_dir, every, result.means, result.differences, result.crossings)
    write_page(
        result.page, settings, chosen, result.means, result.differences, result.crossings, left_out, num_images
    )
    return result
