"""limla tile: the grid, its border, and a folder of large pictures as one that can be packed."""

from __future__ import annotations

import csv
import tracemalloc
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limla.errors import SettingsError
from limla.packing import PackSettings, pack
from limla.pictures import policies
from limla.pictures.room import Room
from limla.tiling import TileSettings, mirrored, tile_pictures
from limla.types import Image
from tests.conftest import natural_like
from tests.unit.photos import photo, type_in
from tests.unit.test_compressing import huge_header, reasons
from tests.unit.test_compressing_resuming import StopsAfter, marks, tree


def cut(image: Image, folder: Path, plan: TileSettings) -> dict[tuple[int, int], Image]:
    """The tiles of one picture, by row and column."""
    folder.mkdir(exist_ok=True)
    PIL.Image.fromarray(image).save(folder / "a.tif")
    tile_pictures(folder / "a.tif", folder / "tiles", plan)
    return {
        (int(path.stem[3:6]), int(path.stem[8:11])): np.asarray(PIL.Image.open(path))
        for path in (folder / "tiles").glob("*.png")
    }


def test_1054_pixels_are_64_tiles_of_128(tmp_path: Path) -> None:
    image = natural_like(1054, 1054)
    PIL.Image.fromarray(image).save(tmp_path / "scene.tif")
    done = type_in("tile", tmp_path / "scene.tif", "--out", tmp_path / "tiles")
    assert done.exit_code == 0, done.output
    assert "64 tiles of 128 × 128 from 1 pictures" in done.stdout
    assert f"{1054**2 - 1024**2} pixels dropped (5.6%), 0 padded" in done.stdout
    assert len(list((tmp_path / "tiles").glob("scene_r00[0-7]_c00[0-7].png"))) == 64
    tile = np.asarray(PIL.Image.open(tmp_path / "tiles" / "scene_r003_c005.png"))
    assert np.array_equal(tile, image[3 * 128 : 4 * 128, 5 * 128 : 6 * 128])


@pytest.mark.parametrize(("height", "width"), [(50, 70), (16, 16), (17, 9), (1, 1), (5, 40)])
@pytest.mark.parametrize("overlap", [0, 5])
def test_padding_mirrors_the_picture(tmp_path: Path, height: int, width: int, overlap: int) -> None:
    image = natural_like(height, width) if min(height, width) > 1 else np.full((height, width, 3), 7, np.uint8)
    tiles = cut(image, tmp_path / "in", TileSettings(16, "pad", overlap))
    step = 16 - overlap
    rows, columns = (max(row) + 1 for row in zip(*tiles, strict=True))
    assert len(tiles) == rows * columns
    below, right = (rows - 1) * step + 16 - height, (columns - 1) * step + 16 - width
    assert 0 <= below < step or height < 16
    padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="reflect")
    for (row, column), pixels in tiles.items():
        assert np.array_equal(pixels, padded[row * step : row * step + 16, column * step : column * step + 16])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 59), st.sampled_from(["drop", "pad"]))
def test_the_grid(side: int, tile: int, overlap: int, border: str) -> None:
    plan = TileSettings(tile, border, overlap % tile)  # type: ignore[arg-type]
    step = tile - plan.overlap
    count, covered = plan.count(side), plan.covered(side)
    if border == "drop":
        assert covered <= side
        assert side - covered < step or (side < tile and count == 0)
    else:
        assert count >= 1
        assert covered >= side
        assert count == 1 or covered - step < side
    places = mirrored(0, covered, side)
    assert ((places >= 0) & (places < side)).all()


def test_dropping_counts_what_is_left_out(tmp_path: Path) -> None:
    tiles = cut(natural_like(50, 70), tmp_path / "in", TileSettings(16, "drop", 4))
    assert max(tiles) == (2, 4)
    with (tmp_path / "in" / "tiles" / "limla-tile.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert int(row["dropped_pixels"]) == 50 * 70 - 40 * 64
    assert (row["tile_rows"], row["tile_columns"], row["padded_pixels"]) == ("3", "5", "0")


def test_a_padded_tile_counts_in_the_room_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Room):
        taken_now: ClassVar[list[int]] = []

        def taken(self, num_pixels: int) -> AbstractContextManager[None]:
            self.taken_now.append(num_pixels)
            return super().taken(num_pixels)

    monkeypatch.setattr(policies, "_room", Counting(10**6))
    cut(natural_like(10, 12), tmp_path / "in", TileSettings(100, "pad"))
    cut(natural_like(10, 12), tmp_path / "in2", TileSettings(5))
    assert Counting.taken_now == [120 + 100**2, 120]


def test_a_wide_low_picture_is_padded_tile_by_tile(tmp_path: Path) -> None:
    PIL.Image.fromarray(natural_like(2, 20_000)).save(tmp_path / "a.png")
    tile_pictures(tmp_path / "a.png", tmp_path / "warm", TileSettings(500, "pad"))
    tracemalloc.start()
    try:
        tile_pictures(tmp_path / "a.png", tmp_path / "tiles", TileSettings(500, "pad"))
        _, peak_num_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_num_bytes < 3 * 500 * 20_000 / 2, "half of what a strip of tiles would need"


def scenes(folder: Path) -> Path:
    for number in range(20):
        path = folder / ("river", "town")[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(natural_like(40 + number, 60, seed=number)).save(path)
    return folder


def test_class_folders_are_kept_and_can_be_packed(tmp_path: Path) -> None:
    raw = scenes(tmp_path / "raw")
    photo(raw / "town" / "small.png")  # 24 × 32
    huge_header(raw / "town" / "huge.png")
    PIL.Image.fromarray(np.zeros((40, 40), np.float32)).save(raw / "town" / "float.tif")
    done = type_in("tile", raw, "--tile", 32, "--out", tmp_path / "tiles")
    assert done.exit_code == 2
    found = reasons(tile_pictures(raw, tmp_path / "tiles", TileSettings(32)))
    assert found.keys() == {"town/huge.png", "town/float.tif"}
    assert "3600000000 pixels" in found["town/huge.png"]
    assert "1 of them smaller than a tile" in done.stdout
    num_tiles = len(list((tmp_path / "tiles").rglob("*.png")))
    assert num_tiles == sum((40 + number) // 32 * (60 // 32) for number in range(20))
    packed = pack(tmp_path / "tiles", tmp_path / "shards", PackSettings())
    assert (packed.packed, packed.manifest.class_names) == (num_tiles, ("river", "town"))


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    raw, plan = scenes(tmp_path / "raw"), TileSettings(16, "pad", 2)
    tile_pictures(raw, tmp_path / "whole", plan)
    out = tmp_path / "tiles"
    with pytest.raises(KeyboardInterrupt):
        tile_pictures(raw, out, plan, engine=StopsAfter(1))
    (out / "river" / "0_r000_c000.png").unlink()
    before = marks(out)
    result = tile_pictures(raw, out, plan)
    assert result.num_made == 13, "the one that lost a tile, and twelve that were not begun"
    assert before.items() <= marks(out).items()
    assert tree(out) == tree(tmp_path / "whole")
    with pytest.raises(SettingsError, match="overlap: 2 there, 3 asked for"):
        tile_pictures(raw, out, TileSettings(16, "pad", 3))


def test_mistakes_in_the_settings() -> None:
    for tile in (0, 13378):
        with pytest.raises(SettingsError, match="choose 1 to 13377, at most 178956970 pixels"):
            TileSettings(tile, "pad")
    with pytest.raises(SettingsError, match="choose 0 to 15, less than the tile"):
        TileSettings(16, overlap=16)
    with pytest.raises(SettingsError, match="choose drop or pad"):
        TileSettings(16, "keep")  # type: ignore[arg-type]


def test_no_tile_at_all_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "small.png", 1)
    done = type_in("tile", tmp_path / "in", "--tile", 2000, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert (
        "no tile was made: every picture is smaller than 2000 × 2000; choose a smaller --tile, or --border pad"
        in (" ".join(done.stderr.split()))
    )
