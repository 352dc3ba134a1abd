"""The stage: shards × codec → one table of probes."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import torch

from limla.analysis.columns import columns_of, table_of, values_of
from limla.codecs import codec_label
from limla.codecs.base import BinaryCodes
from limla.errors import DataError, SettingsError
from limla.files import TEMPORARY_SUFFIX, exclusive, remove_unfinished, write_bytes, write_json
from limla.manifest import SOURCE, SPLITS, Manifest, check_settings, library_versions, read_manifest
from limla.models.device import choose_device
from limla.pictures.walking import printable
from limla.probing import linear, twins
from limla.probing.arrays import InputStore, Samples, code_cell, code_shapes
from limla.probing.parts import Part, PartName
from limla.probing.rows import ProbeRow, probe_rows
from limla.probing.settings import OF_ENCODERS, ProbeSettings
from limla.probing.views import VIEWS_IN_TEST, VIEWS_IN_TRAINING, ViewGrid
from limla.progress import SILENT, Progress
from limla.results import write_table
from limla.storage import listing

TABLE = "probe"
"""Name of the table's files in the output folder, without their endings."""
_SETTINGS = "settings.json"
_LOCK = "probe.lock"
_OF_PARTS = ("torch", "numpy", "scikit-learn", "pillow", "simplejpeg")
_OF_TABLE = ("scipy", "statsmodels")


@dataclass(frozen=True)
class ProbeResult:
    """What `probe` found.

    Attributes:
        rows: of the table.
        record: what `probe.json` holds: the rows, settings, codec and versions; JSON types only.
        num_kept: parts that were there already.
    """

    rows: tuple[ProbeRow, ...]
    record: dict[str, Any]
    num_kept: int


@dataclass(frozen=True)
class _Run:
    settings: ProbeSettings
    codec: BinaryCodes
    device: torch.device
    manifest: Manifest
    grid: ViewGrid
    store: InputStore
    samples: dict[str, Samples]

    @property
    def num_test(self) -> int:
        return len(self.samples["test"].keys)


def probe(settings: ProbeSettings, progress: Progress = SILENT) -> ProbeResult:
    """Probe original pixels, decoded pixels and binary codes of the same images.

    Finished parts are kept, so an interrupted probe goes on where it was, and more qualities, representations or seeds
    compute only what is new. The table is also written to `output_dir` as probe.csv, probe.parquet and probe.json.

    Raises a `LimlaError` before any work for names and settings that do not fit each other, the data or the folder.
    """
    codec, device = settings.build_codec(), choose_device(settings.device)
    manifest = read_manifest(settings.data_dir / SOURCE)
    shapes = code_shapes(codec, settings.qualities, settings.image_size)
    grid = ViewGrid(settings.image_size, code_cell(shapes, settings.image_size))
    _check_counts(settings, manifest, max(3 * grid.image_size**2, *map(math.prod, shapes.values())))
    folder = settings.output_dir
    decisive = _decisive(settings, codec, manifest, grid, device)
    _check_folder(folder, decisive)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / _LOCK, "a probe"):
        _check_folder(folder, decisive)
        write_json(folder / _SETTINGS, decisive)
        for name in ("inputs", "parts"):
            (folder / name).mkdir(exist_ok=True)
            remove_unfinished(folder / name)
        store = InputStore(folder / "inputs", settings.data_dir, grid, codec)
        samples = store.samples(progress)
        _check_samples(store.record, manifest, samples)
        run = _Run(settings, codec, device, manifest, grid, store, samples)
        names = list(_names(settings))
        kept = {name for name in names if name.path(folder / "parts").is_file()}
        for name in names:
            if name not in kept:
                part = _computed(run, name, progress)
                part.write(name.path(folder / "parts"))
        parts = {name: Part.read(name.path(folder / "parts"), run.num_test) for name in names}
        rows = tuple(probe_rows(parts, run.samples["test"].labels))
        record = _record(run, decisive, rows, parts)
        _write(folder, rows, record)
    return ProbeResult(rows, record, len(kept))


def _check_counts(settings: ProbeSettings, manifest: Manifest, most_values: int) -> None:
    """`most_values`: of any input of one image."""
    counts = {split: manifest.num_samples(split) for split in SPLITS}
    for split, fewest in (("train", 2), ("val", 1), ("test", 2)):
        if counts[split] < fewest:
            raise DataError(
                f"{settings.data_dir / SOURCE}: {counts[split]} images of split {split}, and a probe needs "
                f"{fewest}: pack more images, or with other shares of the splits"
            )
    num_images = sum(counts.values())
    numbers = num_images * most_values
    if "flat" in settings.representations and numbers > linear.MAX_NUMBERS:
        raise SettingsError(
            f"representation flat: {num_images} images of up to {most_values} values are {numbers}, more than "
            f"{linear.MAX_NUMBERS}: choose a smaller --image-size, or other representations"
        )


def _check_samples(record: Path, manifest: Manifest, samples: dict[str, Samples]) -> None:
    """`record`: where they are from."""
    for split, found in samples.items():
        wanted, num_classes = manifest.num_samples(split), len(manifest.class_names)
        if len(found.keys) != wanted or not ((found.labels >= 0) & (found.labels < num_classes)).all():
            raise DataError(
                f"{record}: damaged (not {wanted} images of {num_classes} classes in {split}); remove it and run again"
            )
    trained, judged = (np.unique(samples[split].labels) for split in ("train", "val"))
    if len(trained) < 2:
        raise DataError(
            f"all train images are of class '{manifest.class_names[trained[0]]}', and a probe needs 2 classes: "
            "pack more images"
        )
    if not np.isin(judged, trained).any():
        raise DataError("no val image is of a class that train images have: pack more images")


def _decisive(
    settings: ProbeSettings, codec: BinaryCodes, manifest: Manifest, grid: ViewGrid, device: torch.device
) -> dict[str, Any]:
    """What decides a part, whichever it is, the versions that make it included; equal ones may share a folder."""
    return {
        "data": {split: manifest.data_id(split) for split in SPLITS},
        "codec": codec_label(settings.codec),
        "codec-settings": codec.settings(),
        "codec-version": codec.version(),
        "image-size": grid.image_size,
        "epochs": settings.epochs,
        "device": device.type,
        "views": {
            "cell": grid.cell, "view-size": grid.view_size, "train": VIEWS_IN_TRAINING, "test": VIEWS_IN_TEST,
        },
        "twins": {
            "trade-off": twins.TRADE_OFF, "embedded": twins.NUM_EMBEDDED, "batch-size": twins.BATCH_SIZE,
            "learning-rate": twins.LEARNING_RATE,
        },
        **library_versions(_OF_PARTS),
    }  # fmt: skip


def _check_folder(folder: Path, decisive: dict[str, Any]) -> None:
    """Raise `SettingsError` for a folder made with other settings or versions, and for one with other contents."""
    path = folder / _SETTINGS
    there = listing(folder)
    if path.name not in there:
        foreign = sorted(name for name in there if name != _LOCK and not name.endswith(TEMPORARY_SUFFIX))
        if foreign:
            raise SettingsError(
                f"{folder} is not empty ({printable(foreign[0])} …) and not made by limla codec probe: "
                "choose another folder"
            )
        return
    try:
        existing = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(existing, dict):
            raise ValueError("no settings")
    except ValueError as error:
        raise DataError(
            f"{path}: not made by limla codec probe, or damaged ({error}); choose another folder"
        ) from error
    check_settings(folder, existing, decisive)


def _names(settings: ProbeSettings) -> Iterator[PartName]:
    """In the order of the table."""
    for representation in settings.representations:
        for source in settings.inputs():
            for seed in settings.seeds if representation in OF_ENCODERS else (None,):
                yield PartName(source, representation, seed)


def _computed(run: _Run, name: PartName, progress: Progress) -> Part:
    source, store = name.source, run.store
    rate = store.prepare(source, run.samples, progress)
    started = time.monotonic()
    if name.seed is None:
        change = linear.flat if name.representation == "flat" else linear.pooled
        features = {split: change(store.whole(source, split)) for split in SPLITS}
        about: dict[str, Any] = {}
    else:
        features, about = _encoded(run, name, name.seed, progress)
    labels = {split: run.samples[split].labels for split in SPLITS}
    # the others' few values take no time
    shown = progress if name.representation == "flat" else SILENT
    with shown.stage(f"{name.text}: probe", len(linear.STRENGTHS), "fits") as advance:
        found = linear.linear_probe(
            (features["train"], labels["train"]), (features["val"], labels["val"]), features["test"], advance
        )
    accuracy = float((found.predictions == labels["test"]).mean())
    progress.say(f"{name.text}: accuracy {accuracy:.3f}")
    return Part(
        predictions=tuple(found.predictions.tolist()),
        num_values=features["test"].shape[1],
        rate_bpp=rate,
        strength=found.strength,
        val_loss=found.val_loss,
        seconds=round(time.monotonic() - started, 3),
        **about,
    )


def _encoded(
    run: _Run, name: PartName, seed: int, progress: Progress
) -> tuple[dict[str, linear.Features], dict[str, Any]]:
    """An encoder's features by split, and what is to say of it."""
    source, store = name.source, run.store
    kind = "codes" if source.kind == "codes" else "pixels"
    views = store.views(source, "train")
    # float32 without TF32 and with deterministic algorithms, on a GPU too
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        pair = twins.Twins.build(
            kind, views.shape[2], run.grid.cell if kind == "codes" else 1, seed, run.device
        )
        train_loss = None
        if name.representation == "twins":
            epochs = run.settings.epochs
            with progress.stage(f"{name.text}: Barlow Twins", epochs * len(views)) as advance:
                train_loss = pair.train(views, epochs, seed, advance)
        check = pair.check(store.views(source, "test"))
        features = {split: pair.features(store.whole(source, split)) for split in SPLITS}
    return features, {
        "num_parameters": pair.num_parameters,
        "train_loss": train_loss,
        "test_loss": check.loss,
        "diagonal": check.diagonal,
        "off_diagonal": check.off_diagonal,
    }


def _record(
    run: _Run, decisive: dict[str, Any], rows: tuple[ProbeRow, ...], parts: dict[PartName, Part]
) -> dict[str, Any]:
    labels = run.samples["test"].labels
    return {
        "dataset": run.manifest.dataset,
        "class_names": list(run.manifest.class_names),
        "num_samples": {split: len(samples.keys) for split, samples in run.samples.items()},
        "accuracy_of_largest_class": float(np.bincount(labels).max() / len(labels)),
        "off_diagonal_by_chance": twins.chance_off_diagonal(len(labels)),
        "qualities": list(run.settings.qualities),
        "seeds": list(run.settings.seeds),
        "settings": decisive,
        "versions": library_versions((*_OF_PARTS, *_OF_TABLE)),
        "rows": [asdict(row) for row in rows],
        "seconds": {name.text: part.seconds for name, part in parts.items()},
    }


def _write(folder: Path, rows: tuple[ProbeRow, ...], record: dict[str, Any]) -> None:
    table = table_of(map(values_of, rows), pa.schema(columns_of(ProbeRow)))
    write_table(folder / f"{TABLE}.parquet", table)
    text = io.BytesIO()
    pyarrow.csv.write_csv(table, text)
    write_bytes(folder / f"{TABLE}.csv", text.getvalue())
    write_json(folder / f"{TABLE}.json", record)
