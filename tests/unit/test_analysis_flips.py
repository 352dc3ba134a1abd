"""Which images flip first: ranked by hand, over seeds, behind defences; and the pixels that show it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from limla.analysis.encodings import read_data_folders
from limla.analysis.flips import FLIP_SCHEMA, FlipRow, flip_rows, flip_table
from limla.analysis.gallery import encoded_images, flip_pictures, model_input
from limla.analysis.pairs import collect
from limla.codecs import build_codec
from limla.errors import DataError
from limla.manifest import variant_name
from limla.types import Preprocessing
from tests.conftest import natural_like
from tests.unit.trials import Cell, attacked, cell, defended, evidence
from tests.variants import Member, encode, write_variant

SAME = [0, 1, 2, 3, 4, 5]


def predicted(predictions: list[int], quality: int | None, seed: int = 0, **more: Any) -> Cell:
    """Six images whose labels are 0 to 5."""
    return cell(
        [True] * 6,
        quality=quality,
        seed=seed,
        predictions=predictions,
        confidence=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
        **more,
    )


def short(row: FlipRow) -> tuple[str, str, str]:
    """The image's number, and where it flips for good and at all."""
    return row.key[-1], row.quality, row.first_quality


def test_the_first_to_flip_for_good_comes_first() -> None:
    rows = flip_rows(
        evidence(
            predicted(SAME, None),
            predicted([0, 9, 2, 3, 4, 5], 90),  # 1 flips and comes back
            predicted([0, 1, 9, 3, 9, 5], 50),  # 2 and 4 flip
            predicted([0, 9, 8, 9, 9, 5], 10),  # 1 and 3 flip, 2 to yet another class
            predicted([0, 9, 8, 9, 9, 9], 1, order=[5, 4, 3, 2, 1, 0]),  # 5 flips; 0 never does
        )
    )
    # of equal quality the one that was surer before
    assert [short(row) for row in rows] == [
        ("2", "50", "50"),
        ("4", "50", "50"),
        ("1", "10", "90"),
        ("3", "10", "10"),
        ("5", "1", "1"),
    ]
    assert [row.rank for row in rows] == [1, 2, 3, 4, 5]
    first = rows[0]
    assert (first.prediction_before, first.prediction, first.label) == (2, 9, 2)
    assert (first.confidence_before, first.confidence) == pytest.approx((0.7, 0.7))
    assert (first.change, first.codec, first.variant) == ("quality", "jpeg", ("source", None))
    assert [short(row) for row in flip_rows(evidence(predicted(SAME, None), predicted(SAME, 10)))] == []


def test_half_of_the_seeds_must_agree_and_more_come_first() -> None:
    cells = [predicted(SAME, None, seed) for seed in range(4)]
    at_10 = [[0, 1, 2, 9, 4, 5], [0, 9, 9, 9, 4, 5], [0, 9, 9, 9, 9, 5], [0, 1, 9, 9, 4, 5]]
    cells += [predicted(predictions, 10, seed) for seed, predictions in enumerate(at_10)]
    cells.append(predicted([9] * 6, 10, seed=7))  # has no originals
    rows = flip_rows(evidence(*cells))
    # image 3 flips under four seeds, 2 under three, 1 under two, 4 under one
    assert [(row.key[-1], row.num_flipped, row.num_seeds, row.seed) for row in rows] == [
        ("3", 4, 4, 0),
        ("2", 3, 4, 1),
        ("1", 2, 4, 1),
    ]
    assert len(flip_rows(evidence(*cells), limit=2)) == 2
    assert len(flip_rows(evidence(*cells), limit=None)) == 3


def test_defences_have_flips_of_their_own() -> None:
    rows = flip_rows(
        evidence(
            predicted(SAME, None),
            predicted([9, 1, 2, 3, 4, 5], None, fields=defended({}, "50", "")),
            predicted([9, 9, 2, 3, 4, 5], None, fields=defended({}, "5", "")),
            predicted([0, 1, 9, 3, 4, 5], None, fields=defended({}, "5+50", "")),
            predicted([9] * 6, None, fields=attacked("fgsm")),
        )
    )
    assert {row.change for row in rows} == {"defence"}
    assert [(row.key[-1], row.quality, row.rank) for row in rows] == [
        ("0", "50", 1),
        ("1", "5", 2),
        ("2", "5+50", 1),
    ]


def test_without_the_originals_nothing_flips() -> None:
    assert flip_rows(evidence(predicted(SAME, 50), predicted([9] * 6, 10))) == []


def test_the_table_has_a_row_per_flip() -> None:
    rows = flip_rows(evidence(predicted(SAME, None), predicted([0, 9, 2, 3, 4, 5], 10)))
    table = flip_table(rows)
    assert table.schema == FLIP_SCHEMA
    assert table.select(["key", "quality", "test_codec", "test_quality"]).to_pylist() == [
        {"key": "test/000001", "quality": "10", "test_codec": "source", "test_quality": None}
    ]
    assert flip_table([]).schema == FLIP_SCHEMA


NUM_IMAGES = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos in two shards, and the same at JPEG quality 5."""
    folder = tmp_path_factory.mktemp("shards") / "flowers"
    photos = [natural_like(60 + number, 80, seed=number) for number in range(NUM_IMAGES)]
    for codec, quality in (("source", None), ("jpeg", 5)):
        samples = [
            Member(f"test/{number:06d}", encode(image, "jpg", quality or 95), "jpg", b"0", *image.shape[:2])
            for number, image in enumerate(photos)
        ]
        write_variant(
            folder / variant_name(codec, quality), {"test": [samples[:4], samples[4:]]}, codec, quality
        )
    return folder


def test_the_pixels_are_those_of_the_shards(shards: Path) -> None:
    cells = [
        predicted(SAME, None),
        predicted([0, 1, 2, 3, 4, 9], 5),
        predicted([0, 9, 2, 3, 4, 5], None, fields=defended({}, "5", "")),
        predicted([0, 1, 9, 3, 4, 5], None, fields=defended({}, "5+50", "")),
    ]
    cells = [
        (replace(condition, dataset="things", preprocessing=Preprocessing(32).describe()), table)
        for condition, table in cells
    ]
    data = read_data_folders([shards])["things"]
    (found,) = collect(cells, {"things": data})
    pictures = {picture.row.key: picture for picture in flip_pictures(flip_rows(found), data)}
    assert len(pictures) == 3

    def seen(number: int, quality: int) -> np.ndarray:
        data = encode(natural_like(60 + number, 80, seed=number), "jpg", quality)
        with PillowImage.open(io.BytesIO(data)) as picture:
            small = picture.resize((int(80 * 37 / (60 + number)), 37), PillowImage.Resampling.BILINEAR)
            left, top = round((small.width - 32) / 2), round((37 - 32) / 2)
            return np.asarray(small.crop((left, top, left + 32, top + 32)))

    by_quality = pictures["test/000005"]
    assert np.array_equal(by_quality.before, seen(5, 95))
    assert by_quality.after is not None
    assert np.array_equal(by_quality.after, seen(5, 5))
    # a defence stands between the crop and the model
    behind = pictures["test/000001"]
    codec = build_codec("jpeg")
    assert np.array_equal(behind.before, seen(1, 95))
    assert behind.after is not None
    assert np.array_equal(behind.after, codec.decode(codec.encode(seen(1, 95).copy(), 5)))
    # which quality was drawn is not known
    assert pictures["test/000002"].after is None


def test_encoded_images_are_the_bytes_of_the_shard(shards: Path) -> None:
    found = encoded_images(shards / "jpeg-q5", "test", ["test/000005", "test/000001"])
    assert list(found) == ["test/000005", "test/000001"]
    for number in (1, 5):
        image = found[f"test/{number:06d}"]
        assert image.data == encode(natural_like(60 + number, 80, seed=number), "jpg", 5)
        assert image.pixels().shape == (60 + number, 80, 3)
    with pytest.raises(DataError, match="does not hold 'test/000009'"):
        encoded_images(shards / "source", "test", ["test/000001", "test/000009"])


def test_a_quality_without_shards_has_no_picture_after(shards: Path) -> None:
    data = read_data_folders([shards])["things"]
    cells = [
        (replace(condition, preprocessing="none"), table)
        for condition, table in (predicted(SAME, None), predicted([9, 1, 2, 3, 4, 5], 50))
    ]
    (found,) = collect(cells, {})
    (picture,) = flip_pictures(flip_rows(found), data)
    assert picture.before.shape == (60, 80, 3)
    assert picture.after is None
    with pytest.raises(DataError, match="preprocessing 'shorter' is unknown"):
        model_input(picture.before, "shorter")
