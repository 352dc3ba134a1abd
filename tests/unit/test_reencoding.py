"""Re-encoding: what it makes, and that nothing but the settings decides the bytes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.cli.options import parse_measure, parse_qualities
from limla.codecs.decoding import decode_image
from limla.codecs.jpeg import JpegCodec
from limla.engines.base import Share
from limla.engines.local import LocalEngine
from limla.errors import SettingsError, UnknownNameError
from limla.files import canonical_json
from limla.manifest import list_variants, read_manifest, verify_shards
from limla.metrics import psnr_db, ssim
from limla.reencoding import ReencodeSettings, reencode
from limla.reencoding import shard as reencoding_shard
from limla.reencoding import stage as reencoding_stage
from limla.results import ENCODING_SCHEMA, read_encodings
from limla.shard_reader import ShardReader
from tests.listening import Listening
from tests.unit.pets import SETTINGS, fresh, hashes, reference
from tests.unit.variants import make_source

__all__ = ["fresh", "reference"]  # fixtures


def test_each_quality_holds_the_sources_samples_in_order(reference: Path) -> None:
    source = read_manifest(reference / "source")
    codec = JpegCodec("420")
    assert list_variants(reference) == ["source", "jpeg-q1", "jpeg-q10", "jpeg-q90"]
    for quality in (1, 10, 90):
        folder = reference / f"jpeg-q{quality}"
        manifest = read_manifest(folder)
        assert (manifest.codec, manifest.quality) == ("jpeg", quality)
        assert manifest.class_names == source.class_names
        assert manifest.dataset == source.dataset
        assert [(s.name, s.split, s.num_samples) for s in manifest.shards] == [
            (s.name, s.split, s.num_samples) for s in source.shards
        ]
        assert manifest.settings["subsampling"] == "420"
        assert manifest.settings["measure"] == 5
        assert "simplejpeg" in manifest.versions["codec"]
        for split in manifest.splits():
            verify_shards(folder, manifest, split)
        for shard in manifest.shards:
            with (
                ShardReader(reference / "source" / shard.name) as theirs,
                ShardReader(folder / shard.name) as ours,
            ):
                for before, after in zip(theirs, ours, strict=True):
                    original = decode_image(before.image, before.extension)
                    assert after.key == before.key
                    assert after.label == before.label
                    assert after.extension == "jpg"
                    assert bytes(after.image) == codec.encode(original, quality)
                    assert after.metadata == {
                        "key": before.key,
                        "class_name": before.metadata["class_name"],
                        "height": original.shape[0],
                        "width": original.shape[1],
                        "codec": "jpeg",
                        "quality": quality,
                        "num_bytes": len(after.image),
                    }


def test_a_finished_folder_holds_nothing_else(reference: Path) -> None:
    names = {path.name for path in (reference / "jpeg-q10").iterdir()}
    tars = {"train-000000", "train-000001", "val-000000", "test-000000"}
    assert names == {"manifest.json", "encoding.parquet"} | {
        f"{tar}.{kind}" for tar in tars for kind in ("tar", "idx")
    }
    assert {path.name for path in reference.iterdir()} == {"source", "jpeg-q1", "jpeg-q10", "jpeg-q90"}


def test_rows_count_every_byte_and_measure_the_same_sample(reference: Path) -> None:
    table = read_encodings(reference, ["jpeg-q1", "jpeg-q10", "jpeg-q90"])
    assert table.schema.equals(ENCODING_SCHEMA)
    assert table.num_rows == 3 * 19
    codec = JpegCodec()
    measured: dict[int, set[str]] = {}
    rows = {(row["quality"], row["key"]): row for row in table.to_pylist()}
    for quality in (1, 10, 90):
        for shard in read_manifest(reference / "source").shards:
            with ShardReader(reference / "source" / shard.name) as reader:
                for sample in reader:
                    row = rows[quality, sample.key]
                    image = decode_image(sample.image, sample.extension)
                    data = codec.encode(image, quality)
                    assert row["split"] == shard.split
                    assert (row["height"], row["width"]) == image.shape[:2]
                    assert row["num_bytes"] == len(data)
                    assert row["rate_bpp"] == 8 * len(data) / (image.shape[0] * image.shape[1])
                    if row["psnr_db"] is not None:
                        measured.setdefault(quality, set()).add(sample.key)
                        assert row["psnr_db"] == psnr_db(image, codec.decode(data))
                        expected = ssim(image, codec.decode(data))
                        assert row["ssim"] == (None if np.isnan(expected) else expected)
    assert len(measured[1]) == 5
    assert measured[1] == measured[10] == measured[90]


@pytest.mark.parametrize("workers", [1, 2, 3, 17])
def test_the_number_of_workers_does_not_change_the_bytes(fresh: Path, reference: Path, workers: int) -> None:
    reencode(fresh, dataclasses.replace(SETTINGS, workers=workers))
    assert hashes(fresh) == hashes(reference)


def test_qualities_one_by_one_are_those_made_together(fresh: Path, reference: Path) -> None:
    for quality in (90, 1, 10):
        result = reencode(fresh, dataclasses.replace(SETTINGS, qualities=(quality,)))
        assert result.made == (f"jpeg-q{quality}",)
    assert hashes(fresh) == hashes(reference)


def test_adding_a_quality_makes_only_the_new_one(fresh: Path) -> None:
    reencode(fresh, dataclasses.replace(SETTINGS, qualities=(1, 90)))
    before = {path: path.stat().st_mtime_ns for path in fresh.rglob("*.tar")}
    progress = Listening()
    result = reencode(fresh, SETTINGS, progress)
    assert result.made == ("jpeg-q10",)
    assert [summary.variant for summary in result.variants] == ["jpeg-q1", "jpeg-q10", "jpeg-q90"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert (progress.done, progress.total) == (19, 19)


def test_all_and_none_are_measured(fresh: Path) -> None:
    reencode(fresh, ReencodeSettings(qualities=(50,), measure="all"))
    reencode(fresh, ReencodeSettings(qualities=(60,), measure="none"))
    reencode(fresh, ReencodeSettings(qualities=(70,), measure=1000))
    assert [read_manifest(fresh / f"jpeg-q{q}").summary["num_measured"] for q in (50, 60, 70)] == [19, 0, 19]
    # an image with a side below SSIM's window has a PSNR and no SSIM
    table = read_encodings(fresh, ["jpeg-q50"])
    small = [row for row in table.to_pylist() if min(row["height"], row["width"]) < 11]
    assert small
    assert all(row["psnr_db"] is not None and row["ssim"] is None for row in small)


def test_the_sample_depends_on_the_seed_and_not_on_the_shards(
    tmp_path: Path, make_photo: Callable[..., Any]
) -> None:
    def measured(name: str, seed: int, counts: dict[str, tuple[int, ...]]) -> set[str]:
        data_dir = tmp_path / name
        make_source(data_dir, make_photo, counts)
        reencode(data_dir, ReencodeSettings(qualities=(30,), measure=6, seed=seed))
        rows = read_encodings(data_dir, ["jpeg-q30"]).to_pylist()
        return {row["key"] for row in rows if row["psnr_db"] is not None}

    one = measured("one", 0, {"train": (20,)})
    assert len(one) == 6
    assert measured("many", 0, {"train": (3, 9, 1, 7)}) == one
    assert measured("other", 1, {"train": (20,)}) != one


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"qualities": ()}, SettingsError, "no quality"),
        ({"qualities": (0,)}, SettingsError, "quality 0 is out of range: choose 1 to 100"),
        ({"codec": "jpg"}, UnknownNameError, "unknown codec 'jpg'; known: jpeg"),
        ({"subsampling": "411"}, SettingsError, "known: 420, 422, 444"),
        ({"measure": -1}, SettingsError, "choose a number of images from 0, all or none"),
        ({"measure": "some"}, SettingsError, "all or none"),
        ({"workers": 0}, SettingsError, "at least 1"),
        ({"engine": "cluster"}, UnknownNameError, "unknown engine"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(wrong: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        ReencodeSettings(**wrong)


@pytest.mark.parametrize(
    ("text", "qualities"),
    [
        ("10", (10,)),
        ("90, 1,10,1", (1, 10, 90)),
        ("10-90:10", (10, 20, 30, 40, 50, 60, 70, 80, 90)),
        ("98-100,5-6", (5, 6, 98, 99, 100)),
        ("1-10:4", (1, 5, 9)),
    ],
)
def test_quality_lists(text: str, qualities: tuple[int, ...]) -> None:
    assert parse_qualities(text) == qualities
    assert parse_qualities(f"{text},source", allow_source=True) == (None, *qualities)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "an empty part"),
        ("1,,2", "an empty part"),
        ("1,x2", "'x2'"),
        ("1,source", "'source'"),
        ("0,5", "0 in '0' is out of range: choose 1 to 100"),
        ("5-101", "101 in '5-101'"),
        ("9-3", "the range '9-3' is empty"),
        ("1-9:0", "the range '1-9:0' is empty"),
        ("-5", "'-5'"),
        ("1.5", "'1.5'"),
    ],
)
def test_a_wrong_quality_list_names_its_part(text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parse_qualities(text)


def test_measure_is_a_number_all_or_none() -> None:
    assert [parse_measure(text) for text in ("256", "ALL", " none")] == [256, "all", "none"]
    for text in ("", "-1", "many", "1.5"):
        with pytest.raises(SettingsError, match="all or none"):
            parse_measure(text)


def test_the_command_prints_each_variant_and_errors_in_one_line(fresh: Path) -> None:
    runner = CliRunner()
    arguments = ["reencode", str(fresh), "--quality", "5,50", "--measure", "3", "--workers", "2"]
    result = runner.invoke(limla, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(fresh / "jpeg-q5"), str(fresh / "jpeg-q50")]
    assert all("19 images" in line and "made" in line for line in lines)
    again = runner.invoke(limla, arguments)
    assert again.exit_code == 0
    assert "nothing to do: jpeg-q5, jpeg-q50 are complete" in again.stderr
    for wrong in (["--subsampling", "444"], ["--measure", "all"], ["--quality", "7-3"], ["--codec", "jepg"]):
        failed = runner.invoke(limla, [*arguments, *wrong])
        assert failed.exit_code == 2
        assert failed.stderr.startswith("Error: ")
        assert failed.stderr.count("\n") == 1
    missing = runner.invoke(limla, ["reencode", str(fresh / "nothing")])
    assert missing.exit_code == 2
    assert "no such shard folder" in missing.stderr


def test_no_thread_is_left(fresh: Path) -> None:
    before = set(threading.enumerate())  # other tests' uploads share threads that stay
    reencode(fresh, SETTINGS)
    assert not [thread.name for thread in set(threading.enumerate()) - before]


@pytest.mark.parametrize(("run_bytes", "run_samples"), [(1, 64), (1 << 30, 64), (1 << 30, 3)])
def test_bytes_do_not_depend_on_how_many_images_are_handed_out_together(
    fresh: Path, reference: Path, run_bytes: int, run_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencoding_shard, "_RUN_BYTES", run_bytes)
    monkeypatch.setattr(reencoding_shard, "_RUN_SAMPLES", run_samples)
    reencode(fresh, SETTINGS)
    assert hashes(fresh) == hashes(reference)


class FourThreads(Share):
    """As an engine with four threads would ask; keeps what it is asked to spread."""

    num_threads = 4

    def __init__(self, advance: Callable[[int], None], runs: list[range]) -> None:
        super().__init__(advance)
        self.runs = runs

    def spread(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> Generator[Any, None, None]:
        for run in arguments:
            self.runs.append(run)
            yield function(run)


class OtherEngine:
    """In this process, though it does not say so; remembers the runs of images, and when it was closed."""

    def __init__(self) -> None:
        self.runs: list[range] = []
        self.is_closed = False

    def map(
        self, work: Callable[[Any, Share], Any], items: Sequence[Any], advance: Callable[[int], None]
    ) -> Generator[Any, None, None]:
        try:
            for item in items:
                yield work(item, FourThreads(advance, self.runs))
        finally:
            self.is_closed = True


def test_every_thread_gets_some_of_a_shards_few_small_images(fresh: Path, reference: Path) -> None:
    engine = OtherEngine()
    reencode(fresh, SETTINGS, engine=engine)  # type: ignore[arg-type]
    assert len(engine.runs) == 19, "a shard holds less than four runs for each thread, so each image is one"
    assert hashes(fresh) == hashes(reference)


@pytest.mark.parametrize(
    ("engine", "is_called"), [(LocalEngine(2), True), (LocalEngine(9), False), (None, False)]
)
def test_a_codec_is_prepared_where_this_process_encodes(
    engine: LocalEngine | None, is_called: bool, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        reencoding_shard.ReencodeShard, "prepare", lambda work, qualities: called.append(qualities)
    )
    reencode(fresh, SETTINGS, engine=engine or OtherEngine())  # type: ignore[arg-type]
    assert called == [SETTINGS.qualities] * is_called


def test_an_interruption_between_two_shards_closes_the_engine(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    engine = OtherEngine()
    monkeypatch.setattr(reencoding_stage, "check_visible", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        reencode(fresh, SETTINGS, engine=engine)  # type: ignore[arg-type]
    assert caught.traceback, "which keeps the frames and what they hold: nothing is left to their end"
    assert engine.is_closed


@pytest.mark.parametrize("class_name", [None, "cat", 'ä "quoted" \\'])
def test_metadata_is_canonical_json(class_name: str | None) -> None:
    metadata = {"key": "c/a-1", "height": 3, "width": 50, "codec": "jpeg", "quality": 7, "num_bytes": 1234}
    if class_name is not None:
        metadata["class_name"] = class_name
    text = reencoding_shard.metadata_text("jpeg", "c/a-1", 3, 50, class_name)
    assert text(7, 1234) == canonical_json(metadata).encode()
