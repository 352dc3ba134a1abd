"""Re-encoding again: after an interruption, a loss or damage, with other settings, sources or versions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limla.engines.base import Share
from limla.errors import DataError, SettingsError
from limla.files import exclusive
from limla.manifest import list_variants, read_manifest
from limla.reencoding import reencode
from tests.listening import Listening
from tests.unit.pets import SETTINGS, fresh, hashes, reference
from tests.unit.variants import make_source

__all__ = ["fresh", "reference"]  # fixtures


def test_a_second_run_does_nothing_and_says_so(fresh: Path) -> None:
    reencode(fresh, SETTINGS)
    before = {path: path.stat().st_mtime_ns for path in fresh.rglob("*")}
    progress = Listening()
    assert reencode(fresh, SETTINGS, progress).made == ()
    assert progress.lines == ["nothing to do: jpeg-q1, jpeg-q10, jpeg-q90 are complete"]
    assert {path: path.stat().st_mtime_ns for path in fresh.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subsampling": "444"}, "subsampling: '420' there, '444' asked for"),
        ({"measure": "all"}, "measure: 5 there, 'all' asked for"),
        ({"seed": 7}, "seed: 0 there, 7 asked for"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_on_an_existing_folder_are_refused(
    fresh: Path, change: dict[str, Any], message: str, finished: bool
) -> None:
    if finished:
        reencode(fresh, SETTINGS)
    else:
        with pytest.raises(InterruptedAtShardError):
            reencode(fresh, SETTINGS, engine=StopAfter(1))
    before = hashes(fresh)
    with pytest.raises(SettingsError, match=message):
        reencode(fresh, dataclasses.replace(SETTINGS, **change))
    assert hashes(fresh) == before


@pytest.mark.parametrize("finished", [True, False])
def test_sources_packed_again_are_noticed(fresh: Path, make_photo: Callable[..., Any], finished: bool) -> None:
    if finished:
        reencode(fresh, SETTINGS)
    else:
        with pytest.raises(InterruptedAtShardError):
            reencode(fresh, SETTINGS, engine=StopAfter(1))
    make_source(fresh, make_photo, shift=100)
    with pytest.raises(SettingsError, match="jpeg-q1 was made from other source shards"):
        reencode(fresh, SETTINGS)


def test_another_library_version_does_not_go_on_in_an_unfinished_folder(fresh: Path) -> None:
    with pytest.raises(InterruptedAtShardError):
        reencode(fresh, SETTINGS, engine=StopAfter(1))
    path = fresh / "jpeg-q1" / "settings.json"
    begun = json.loads(path.read_text())
    begun["versions"]["codec"] = "simplejpeg 0.1"
    path.write_text(json.dumps(begun))
    with pytest.raises(SettingsError, match=r"codec: 'simplejpeg 0\.1' there"):
        reencode(fresh, SETTINGS)


def test_a_run_that_made_no_shard_leaves_the_settings_open(fresh: Path) -> None:
    with pytest.raises(InterruptedAtShardError):
        reencode(fresh, SETTINGS, engine=StopAfter(0))
    assert (fresh / "jpeg-q1" / "settings.json").exists()
    other = replace(SETTINGS, subsampling="444")
    assert len(reencode(fresh, other).made) == 3
    assert read_manifest(fresh / "jpeg-q1").settings["subsampling"] == "444"


def test_a_strangers_folder_is_left_alone(fresh: Path) -> None:
    (fresh / "jpeg-q10").mkdir()
    (fresh / "jpeg-q10" / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty, and not begun by limla"):
        reencode(fresh, SETTINGS)
    assert not (fresh / "jpeg-q1").exists()


class InterruptedAtShardError(Exception):
    """Stands for whatever ends a run between two shards."""


class StopAfter:
    """An engine that stops after some items, as an interruption would."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def map(self, work: Any, items: Any, advance: Any = lambda n: None) -> Any:
        for number, item in enumerate(items):
            if number == self.num_items:
                raise InterruptedAtShardError
            yield work(item, Share(advance))


@pytest.mark.parametrize("num_shards", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_bytes(fresh: Path, reference: Path, num_shards: int) -> None:
    with pytest.raises(InterruptedAtShardError):
        reencode(fresh, SETTINGS, engine=StopAfter(num_shards))
    assert list_variants(fresh) == ["source"]
    done = {path: path.stat().st_mtime_ns for path in fresh.glob("jpeg-*/*.tar")}
    assert len(done) == 3 * num_shards
    progress = Listening()
    reencode(fresh, SETTINGS, progress)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert progress.total == 19 - sum(
        s.num_samples for s in read_manifest(fresh / "source").shards[:num_shards]
    )
    assert hashes(fresh) == hashes(reference)


def test_an_error_in_the_middle_of_a_shard_leaves_nothing_half(fresh: Path, reference: Path) -> None:
    class Breaks(Share):
        def spread(self, function: Any, arguments: Any) -> Any:
            yield from map(function, list(arguments)[:2])
            raise OSError(28, "No space left on device")

    class Engine:
        def map(self, work: Any, items: Any, advance: Any = lambda n: None) -> Any:
            for item in items:
                yield work(item, Breaks())

    with pytest.raises(OSError, match="No space left"):
        reencode(fresh, SETTINGS, engine=Engine())
    assert {path.name for path in fresh.glob("jpeg-*/*")} == {"settings.json"}
    reencode(fresh, SETTINGS)
    assert hashes(fresh) == hashes(reference)


def test_a_lost_tar_of_an_unfinished_folder_is_made_again(fresh: Path, reference: Path) -> None:
    with pytest.raises(InterruptedAtShardError):
        reencode(fresh, SETTINGS, engine=StopAfter(2))
    (fresh / "jpeg-q10" / "train-000000.tar").unlink()
    (fresh / "jpeg-q90" / "train-000001.tar").write_bytes(b"short")
    reencode(fresh, SETTINGS)
    assert hashes(fresh) == hashes(reference)


def test_leftovers_of_a_run_killed_at_its_very_end_are_cleared(fresh: Path, reference: Path) -> None:
    reencode(fresh, SETTINGS)
    (fresh / "jpeg-q10" / "settings.json").write_text("{}")
    (fresh / "jpeg-q10" / "train-000000.part.json").write_text("{}")
    (fresh / "jpeg-q10" / "train-000000.tar.77.limla-tmp").write_text("")
    assert reencode(fresh, SETTINGS).made == ()
    assert hashes(fresh) == hashes(reference)


@pytest.mark.parametrize(
    ("name", "content", "num_remade"),
    [
        ("val-000000.tar", None, 1),
        ("val-000000.tar", b"short", 1),
        ("train-000001.idx", None, 1),
        ("train-000001.idx", b"v1.2 1\n", 1),
        ("encoding.parquet", None, 4),
        ("encoding.parquet", b"PAR1", 4),
    ],
)
def test_what_a_finished_folder_lost_is_made_again(
    fresh: Path, reference: Path, name: str, content: bytes | None, num_remade: int
) -> None:
    reencode(fresh, SETTINGS)
    tars = {path: path.stat().st_mtime_ns for path in fresh.glob("jpeg-*/*.tar")}
    assert len(tars) == 3 * 4
    damaged = fresh / "jpeg-q10" / name
    damaged.unlink()
    if content is not None:
        damaged.write_bytes(content)
    progress = Listening()
    assert reencode(fresh, SETTINGS, progress).made == ("jpeg-q10",)
    lost = name.replace(".idx", ".tar")
    assert progress.lines == [f"{fresh / 'jpeg-q10'}: missing or damaged, made again: {lost}"]
    assert hashes(fresh) == hashes(reference)
    assert sum(path.stat().st_mtime_ns != time for path, time in tars.items()) == num_remade
    assert reencode(fresh, SETTINGS).made == ()


def test_a_damaged_folder_of_other_library_versions_is_refused_and_kept(fresh: Path) -> None:
    reencode(fresh, SETTINGS)
    path = fresh / "jpeg-q10" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "versions": {**manifest["versions"], "codec": "older"}}))
    (fresh / "jpeg-q10" / "val-000000.idx").unlink()
    before = hashes(fresh)
    with pytest.raises(SettingsError, match="codec: 'older' there"):
        reencode(fresh, SETTINGS)
    assert hashes(fresh) == before


def test_a_damaged_sample_is_named_and_what_is_complete_is_kept(
    tmp_path: Path, make_photo: Callable[..., Any]
) -> None:
    data_dir = tmp_path / "pets"
    make_source(data_dir, make_photo, damaged="val/c1/img0013")
    with pytest.raises(DataError, match=r"val-000000\.tar: sample 'val/c1/img0013': not a decodable JPEG"):
        reencode(data_dir, SETTINGS)
    kept = {path.name for path in (data_dir / "jpeg-q10").iterdir()}
    assert {"train-000000.tar", "train-000001.tar", "train-000001.part.json"} <= kept
    assert not any(name.startswith("val") or name.endswith("limla-tmp") for name in kept)
    assert list_variants(data_dir) == ["source"]


def test_a_flipped_byte_in_a_source_shard_is_an_error(fresh: Path) -> None:
    path = fresh / "source" / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-000001\.tar: altered"):
        reencode(fresh, SETTINGS)


def test_a_truncated_or_missing_source_shard_is_found_before_the_work(fresh: Path) -> None:
    path = fresh / "source" / "test-000000.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match="truncated or altered"):
        reencode(fresh, SETTINGS)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        reencode(fresh, SETTINGS)
    assert {path.name for path in fresh.iterdir()} == {"source"}


def test_a_second_process_on_the_same_folder_is_refused(fresh: Path) -> None:
    with exclusive(fresh / ".reencode.lock", "limla reencode"), pytest.raises(SettingsError, match="under way"):
        reencode(fresh, SETTINGS)
    assert {path.name for path in fresh.iterdir()} == {"source"}
    reencode(fresh, SETTINGS)
