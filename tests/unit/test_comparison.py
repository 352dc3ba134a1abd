"""`limla codecs compare` as a stage: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import limla.comparison.choosing
from limla.codecs import build_codec
from limla.codecs.jpeg import JpegCodec
from limla.comparison import CompareSettings, compare
from limla.comparison.choosing import contenders
from limla.comparison.measuring import ROW_SCHEMA
from limla.comparison.photos import draw, find_photos
from limla.errors import DataError, MissingDependencyError, SettingsError, UnknownNameError
from limla.metrics import psnr_db, rate_bpp, ssim
from limla.progress import Progress
from limla.registry import Catalogue
from limla.types import Image


class _Told(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def _settings(folder: Path, output_dir: Path, **changes: object) -> CompareSettings:
    values = {"codecs": ("jpeg", "jpeg:subsampling=444"), "num_images": 3, "num_points": 4, **changes}
    return CompareSettings(folder, output_dir, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compared(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished comparison. Read only."""
    folder = tmp_path_factory.mktemp("compared")
    compare(_settings(photo_folder, folder))
    return folder


def test_rows_hold_what_the_codec_does(compared: Path, photo_folder: Path) -> None:
    table = pq.read_table(compared / "rows.parquet")
    assert table.schema.equals(ROW_SCHEMA)
    rows = table.to_pylist()
    by_name = {photo.name: photo for photo in find_photos(photo_folder)}
    assert len({row["image"] for row in rows}) == 3
    # the reference has the denser curve: 2 · 4 − 1 points
    assert {len({row["quality"] for row in rows if row["codec"] == codec}) for codec in ("jpeg",)} == {7}
    for row in rows[::5]:
        image = by_name[row["image"]].pixels()
        codec = build_codec(row["codec"])
        data = codec.encode(image, row["quality"])
        assert (row["height"], row["width"]) == image.shape[:2]
        assert row["num_bytes"] == len(data)
        assert row["rate_bpp"] == rate_bpp(len(data), *image.shape[:2])
        assert row["psnr_db"] == psnr_db(image, codec.decode(data))
        assert row["ssim"] == ssim(image, codec.decode(data))
        assert row["ms_ssim"] is None, "these photos are too small for it"
        assert row["encode_cpu_s"] > 0
        assert row["decode_cpu_s"] > 0


def test_tables_and_page_lie_beside_the_rows(compared: Path) -> None:
    rates = pq.read_table(compared / "rates.parquet").to_pylist()
    rows = pq.read_table(compared / "rows.parquet").to_pylist()
    for mean in rates:
        own = [row for row in rows if (row["codec"], row["quality"]) == (mean["codec"], mean["quality"])]
        assert mean["num_images"] == len(own) == 3
        assert mean["mean_rate_bpp"] == pytest.approx(np.mean([row["rate_bpp"] for row in own]))
        assert mean["mean_psnr_db"] == pytest.approx(np.mean([row["psnr_db"] for row in own]))
        assert mean["encode_images_per_s"] == pytest.approx(3 / sum(row["encode_cpu_s"] for row in own))
        assert mean["mean_ms_ssim"] is None
        assert mean["num_ms_ssim"] == 0
    (difference,) = pq.read_table(compared / "bd.parquet").to_pylist()
    assert difference["codec"] == "jpeg:subsampling=444"
    assert 0 < difference["bd_rate_percent"] < 60, "chroma at full resolution costs bits"
    assert difference["bd_rate_low"] is difference["image_bd_rate_high"] is None, "no interval of three photos"
    assert difference["psnr_low_db"] < difference["psnr_high_db"]
    page = (compared / "comparison.html").read_text(encoding="utf-8")
    assert "jpeg:subsampling=444" in page
    assert "default-src 'none'" in page, "the page is one file: it may load nothing"
    assert "<script src" not in page
    assert (compared / "rate-distortion.svg").read_text(encoding="utf-8").count("jpeg:subsampling=444") >= 1
    assert (compared / "rate-distortion.png").read_bytes().startswith(b"\x89PNG")


def test_qualities_are_spread_evenly_over_the_log_of_the_rate(compared: Path) -> None:
    rates = pq.read_table(compared / "rates.parquet").to_pylist()
    logs = np.log2([mean["mean_rate_bpp"] for mean in rates if mean["codec"] == "jpeg"])
    assert [mean["quality"] for mean in rates if mean["codec"] == "jpeg"][:: len(logs) - 1] == [1, 100]
    steps = np.diff(logs)
    # not exactly: JPEG's qualities are whole numbers, and few at low rates
    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.6 * steps.mean()


def test_an_interrupted_comparison_goes_on(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = JpegCodec.encode, [0]

    def counted(self: JpegCodec, image: Image, quality: int) -> bytes:
        calls[0] += 1
        if calls[0] == stop_at:
            raise KeyboardInterrupt
        return encode(self, image, quality)

    monkeypatch.setattr(JpegCodec, "encode", counted)
    settings = _settings(photo_folder, tmp_path, codecs=("jpeg",))
    stop_at = -1
    compare(settings)
    needed = calls[0]
    parts = sorted((tmp_path / "parts" / "jpeg").glob("*.parquet"))
    assert len(parts) == 7
    whole = pq.read_table(tmp_path / "rows.parquet").drop_columns(["encode_cpu_s", "decode_cpu_s"])
    shutil.rmtree(tmp_path)
    # in the fourth part, after its first photo
    calls[0], stop_at = 0, needed - 4 * 3 + 2
    with pytest.raises(KeyboardInterrupt):
        compare(settings)
    kept = sorted((tmp_path / "parts" / "jpeg").glob("*.parquet"))
    assert len(kept) == 3
    times = [path.stat().st_mtime_ns for path in kept]
    calls[0], stop_at = 0, -1
    compare(settings)
    assert calls[0] == 1 + 4 * 3, "the warm-up, and the four parts that were missing"
    assert [path.stat().st_mtime_ns for path in kept] == times
    again = pq.read_table(tmp_path / "rows.parquet").drop_columns(["encode_cpu_s", "decode_cpu_s"])
    assert again.equals(whole)


def test_codecs_may_be_added_but_nothing_else_changed(
    compared: Path, photo_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(compared, folder)
    result = compare(_settings(photo_folder, folder, codecs=("jpeg:subsampling=422",)))
    assert [row.codec for row in result.differences] == ["jpeg:subsampling=422"]
    for change in ({"num_images": 4}, {"seed": 1}, {"num_points": 5}, {"rates_bpp": (0.1, 2.0)}):
        with pytest.raises(SettingsError, match=f"other settings.*{next(iter(change))}"):
            compare(_settings(photo_folder, folder, **change))
    (folder / "parts" / "jpeg" / "q1.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"q1\.parquet"):
        compare(_settings(photo_folder, folder))
    plan = folder / "parts" / "jpeg" / "plan.json"
    plan.write_text(plan.read_text(encoding="utf-8").replace("simplejpeg", "otherjpeg"), encoding="utf-8")
    with pytest.raises(SettingsError, match="version: 'otherjpeg"):
        compare(_settings(photo_folder, folder))


def test_codecs_asked_for_by_name_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="jepg"):
        contenders(["jepg"])
    with pytest.raises(SettingsError, match="twice"):
        contenders(["webp", "webp"])
    plugs = {"jpeg": "limla.codecs.jpeg:JpegCodec", "absent": "a_package_that_is_not_there:Codec"}
    catalogue = Catalogue("codec", plugs, extras={"absent": "absent"})
    for module in ("limla.codecs", "limla.comparison.choosing"):
        monkeypatch.setattr(f"{module}.CODECS", catalogue)
    found, left_out = contenders(None)
    assert [contender.label for contender in found] == ["jpeg"]
    assert "pip install 'limla[absent]'" in left_out["absent"]
    with pytest.raises(MissingDependencyError, match="absent"):
        contenders(["absent"])


def test_a_photo_that_cannot_be_decoded_is_passed_over(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder / "cat", folder / "deep" / "cat")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    told = _Told()
    result = compare(_settings(folder, tmp_path / "out", codecs=("jpeg",), num_images=50), told)
    assert result.num_images == 12
    assert any(line.startswith("passed over: broken.jpg: ") for line in told.lines)
    assert any("12 photos there, 50 were asked for" in line for line in told.lines)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 13 photos"):
        draw(find_photos(folder), 3, 0)
    with pytest.raises(DataError, match="no photos there"):
        find_photos(tmp_path / "out" / "parts")


def test_shards_hold_the_same_photos(photo_folder: Path, tmp_path: Path) -> None:
    from limla.packing import pack

    pack(photo_folder, tmp_path)
    samples = find_photos(tmp_path)
    files = find_photos(photo_folder)
    assert len(samples) == len(files) == 24
    assert {photo.read() for photo in samples} == {photo.read() for photo in files}
    assert find_photos(tmp_path / "source") == samples
    parts = [find_photos(tmp_path, split) for split in ("train", "val", "test")]
    assert sorted(photo.name for part in parts for photo in part) == [photo.name for photo in samples]
    assert 0 < len(parts[2]) < len(samples)
    with pytest.raises(SettingsError, match="no folder of shards"):
        find_photos(photo_folder, "test")
    by_bytes = {photo.read(): photo for photo in files}
    for sample in samples[:3]:
        assert np.array_equal(sample.pixels(), by_bytes[sample.read()].pixels())


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for change in (
        {"num_images": 0},
        {"num_points": 3},
        {"seed": -1},
        {"workers": 0},
        {"codecs": ()},
        {"split": "tset"},
        {"rates_bpp": (2.0, 1.0)},
        {"rates_bpp": (0.0, 1.0)},
    ):
        with pytest.raises(SettingsError, match=r"choose|name one"):
            _settings(tmp_path, tmp_path, **change)


def test_the_reference_is_always_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = contenders(["jpeg:subsampling=444"])
    assert [contender.label for contender in found] == [
        limla.comparison.choosing.REFERENCE,
        "jpeg:subsampling=444",
    ]


def test_the_command_line(photo_folder: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from limla.cli import limla

    run = CliRunner().invoke
    asked = ["codecs", "compare", str(photo_folder), "--output-dir", str(tmp_path / "out"), "--images", "2"]
    result = run(limla, [*asked, "--codecs", "jpeg,jpeg:subsampling=444", "--qualities", "4", "--bpp", "0.5-3"])
    assert result.exit_code == 0, result.output
    assert "jpeg:subsampling=444  BD-rate" in result.output
    assert str(tmp_path / "out" / "comparison.html") in result.output
    for wrong, told in (
        (["--codecs", "jepg"], "Did you mean 'jpeg'"),
        (["--bpp", "2"], "write it as 0.1-2"),
        (["--bpp", "x-2"], "write it as 0.1-2"),
        (["--seed", "1"], "other settings"),
    ):
        result = run(limla, [*asked, "--qualities", "4", *wrong])
        assert result.exit_code == 2
        assert told in result.output


def test_a_list_of_codecs_may_have_knobs() -> None:
    from limla.cli.codecs import _texts

    assert _texts(("jpeg, webp",)) == ("jpeg", "webp")
    assert _texts(("svd:tile=8,subsampling=444,webp", "avif")) == ("svd:tile=8,subsampling=444", "webp", "avif")
    assert _texts(()) is None


def test_every_codec_is_listed() -> None:
    from click.testing import CliRunner

    from limla.cli import limla
    from limla.registry import CODECS

    lines = CliRunner().invoke(limla, ["codecs", "list"]).output.splitlines()
    heads = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert heads == CODECS.names()
    (jpeg,) = (line for line in lines if line.startswith("jpeg: "))
    assert jpeg == "jpeg: quality 1 to 100; .jpg, DALI decodes it too"
    assert "subsampling 420" in lines[lines.index(jpeg) + 1]
