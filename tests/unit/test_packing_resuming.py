"""Packing again: after an interruption, a full disk, damage, a change of photos or settings."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from limla.engines.local import LocalEngine
from limla.errors import DataError, SettingsError
from limla.manifest import FILE_NAME
from limla.packing import PackSettings, pack
from limla.packing import stage as packing_stage
from limla.packing.discovery import discover
from limla.packing.splitting import plan
from tests.conftest import natural_like
from tests.listening import Listening
from tests.unit.photos import broken_photos, contents, photo, quarantined, type_in


def test_a_second_run_does_nothing_and_another_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(photo_folder, raw)
    pack(raw, out, PackSettings())
    before = contents(out / "source")
    said = Listening()
    assert not pack(raw, out, PackSettings(), said).made
    assert said.lines == [
        f"nothing to do: {out / 'source'} is complete",
        "found 24 = packed 24 + quarantined 0",
    ]
    with pytest.raises(SettingsError, match="seed: 0 there, 1 asked for"):
        pack(raw, out, PackSettings(seed=1))
    photo(raw / "cat" / "new.jpg")
    with pytest.raises(SettingsError, match="packed from other photos"):
        pack(raw, out, PackSettings())
    assert contents(out / "source") == before


def test_damaged_shards_are_packed_again(photo_folder: Path, tmp_path: Path) -> None:
    folder = pack(photo_folder, tmp_path, PackSettings()).folder
    before = contents(folder)
    (folder / "val-000000.tar").unlink()
    assert type_in("verify", tmp_path).exit_code == 2
    assert pack(photo_folder, tmp_path, PackSettings()).made
    assert contents(folder) == before


def test_verify_names_every_wrong_file(photo_folder: Path, tmp_path: Path) -> None:
    folder = pack(photo_folder, tmp_path, PackSettings(max_shard_samples=5)).folder
    done = type_in("verify", tmp_path)
    assert done.exit_code == 0, done.output
    assert "24 samples" in done.stdout
    for name in ("train-000000.tar", "train-000001.tar"):
        data = bytearray((folder / name).read_bytes())
        data[700] ^= 1
        (folder / name).write_bytes(data)
    (folder / "test-000000.idx").unlink()
    done = type_in("verify", tmp_path)
    assert done.exit_code == 2
    for name in ("train-000000.tar", "train-000001.tar", "test-000000.idx"):
        assert name in done.stderr
    assert "3 problems" in done.stderr
    assert type_in("verify", tmp_path / "absent").exit_code == 2


def run_pack(raw: Path, out: Path, *options: str, **more: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", "from limla.cli import main; main()", "pack", str(raw), str(out), *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    data = [np.asarray(natural_like(160, 200, seed=seed)) for seed in range(4)]
    for number in range(120):
        path = folder / "raw" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(data[number % 4] // (1 + number % 5)).save(path, compress_level=1)
    return folder / "raw"


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(many_photos: Path, tmp_path: Path) -> None:
    options = ("--shard-images", "8")
    whole = run_pack(many_photos, tmp_path / "whole" / "set", *options)
    whole.communicate()
    assert whole.returncode == 0
    out = tmp_path / "killed" / "set"
    killed = 0
    # killed when the second, the sixth, … tar appears: before, between and while shards are written
    for num_tars in (1, 5, 9):
        process = run_pack(many_photos, out, *options)
        while process.poll() is None and len(list(out.glob("source/*.tar"))) < num_tars:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert not (out / "source" / FILE_NAME).exists() or process.returncode == 0
    assert killed >= 2
    # what another, finer cut left behind goes away too
    (out / "source" / "train-000099.tar").write_bytes(b"old")
    (out / "source" / "train-000000.tar.1.limla-tmp").write_bytes(b"half")
    last = run_pack(many_photos, out, *options)
    last.communicate()
    assert last.returncode == 0
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")


def test_a_full_disk_leaves_nothing_half_written(many_photos: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: the write fails in the same place."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = run_pack(many_photos, tmp_path / "set", preexec_fn=limit)
    _, error = process.communicate()
    assert process.returncode == 1
    assert f"{tmp_path / 'set' / 'source'}: File too large; what is complete was kept".encode() in error
    assert b"Traceback" not in error
    # the small shards of val and test may have been complete before the large one failed
    left = {path.name.partition("-")[0] for path in (tmp_path / "set" / "source").iterdir()}
    assert left <= {"settings.json", "val", "test"}
    last = run_pack(many_photos, tmp_path / "set")
    last.communicate()
    assert last.returncode == 0


class StopsAfter:
    """The local engine, interrupted when some shards are made."""

    def __init__(self, num_shards: int) -> None:
        self.num_shards = num_shards

    def map(
        self, work: Any, items: Sequence[Any], advance: Callable[[int], None]
    ) -> Generator[Any, None, None]:
        yield from LocalEngine(2).map(work, items[: self.num_shards], advance)
        raise KeyboardInterrupt


def marks(out: Path) -> dict[str, tuple[int, int]]:
    """Tar → what changes when it is written again."""
    found = {path.name: path.stat() for path in (out / "source").glob("*.tar")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def interrupted(raw: Path, out: Path, num_shards: int = 3) -> dict[str, tuple[int, int]]:
    """Pack by fives and stop; returns the marks of the tars that are there."""
    with pytest.raises(KeyboardInterrupt):
        pack(raw, out, PackSettings(max_shard_samples=5), engine=StopsAfter(num_shards))
    assert not (out / "source" / FILE_NAME).exists()
    return marks(out)


@pytest.mark.parametrize("workers", [1, 9])
def test_an_interrupted_run_goes_on_shard_by_shard(tmp_path: Path, workers: int) -> None:
    raw = tmp_path / "raw"
    broken_photos(raw)
    whole = pack(raw, tmp_path / "whole" / "set", PackSettings(max_shard_samples=5, workers=2))
    out = tmp_path / "set"
    before = interrupted(raw, out)
    assert before.keys() == {"train-000000.tar", "train-000001.tar"}, "the third has no picture and so no tar"
    said = Listening()
    result = pack(raw, out, PackSettings(max_shard_samples=5, workers=workers), said)
    assert "3 of 9 shards are there already" in said.lines[0]
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")
    assert before.items() <= marks(out).items()
    assert result.warnings == whole.warnings
    assert quarantined(result).keys() == quarantined(whole).keys()


def test_other_settings_do_not_mix_with_an_interrupted_run(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    broken_photos(raw)
    before = interrupted(raw, out)
    with pytest.raises(SettingsError, match="max_shard_samples: 5 there, 6 asked for"):
        pack(raw, out, PackSettings(max_shard_samples=6))
    assert before == marks(out)


def test_a_run_that_made_no_shard_leaves_the_settings_open(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    broken_photos(raw)

    class Refuses:
        def map(self, *_: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(raw, out, PackSettings(max_shard_samples=5), engine=Refuses())
    assert (out / "source" / "settings.json").exists()
    pack(raw, out, PackSettings(max_shard_samples=6))
    pack(raw, tmp_path / "fresh" / "out", PackSettings(max_shard_samples=6))
    contents = [path.read_bytes() for path in sorted((out / "source").iterdir())]
    assert contents == [path.read_bytes() for path in sorted((tmp_path / "fresh" / "out" / "source").iterdir())]


@pytest.mark.parametrize("change", ["bytes", "dates", "versions"])
def test_changed_photos_are_packed_from_the_start(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "set"
    broken_photos(raw)
    before = interrupted(raw, out)
    planned, _ = plan(discover(raw), PackSettings())
    first = raw / planned[0].file.path
    if change == "bytes":
        photo(first, 99, quality=95)
    elif change == "dates":
        data = bytearray(first.read_bytes())
        data[-3] ^= 1  # of the same size
        first.write_bytes(data)
        os.utime(first, (2e9, 2e9))
    else:
        monkeypatch.setattr("limla.packing.stage.library_versions", lambda names: dict.fromkeys(names, "9"))
    said = Listening()
    pack(raw, out, PackSettings(max_shard_samples=5), said)
    assert any("packing from the start" in line for line in said.lines)
    after = marks(out)
    assert all(after[name] != mark for name, mark in before.items())
    pack(raw, tmp_path / "whole" / "set", PackSettings(max_shard_samples=5))
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")


def test_a_photo_that_changes_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    broken_photos(raw)
    planned, _ = plan(discover(raw), PackSettings())
    last = raw / planned[-1].file.path

    class Meanwhile:
        def __init__(self, change: Callable[[], object]) -> None:
            self.change = change

        def map(
            self, work: Any, items: Sequence[Any], advance: Callable[[int], None]
        ) -> Generator[Any, None, None]:
            self.change()
            yield from LocalEngine(1).map(work, items, advance)

    with pytest.raises(DataError, match=r"when the photos were listed, now it holds 3;"):
        pack(raw, tmp_path / "out", PackSettings(), engine=Meanwhile(lambda: last.write_bytes(b"new")))
    with pytest.raises(DataError, match=r"3 bytes when the photos were listed, now it is gone;"):
        pack(raw, tmp_path / "out", PackSettings(), engine=Meanwhile(last.unlink))
    with pytest.raises(DataError, match=r"every machine must see the photos under this path"):
        pack(raw, tmp_path / "out", PackSettings(), engine=Meanwhile(lambda: raw.rename(tmp_path / "away")))
    assert not (tmp_path / "out" / "source" / FILE_NAME).exists()


def test_what_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = tmp_path / "raw", tmp_path / "set"
    broken_photos(raw)
    planned, _ = plan(discover(raw), PackSettings())
    locked, real = planned[1].file.path, os.open

    def refuse(path: Any, *rest: Any) -> int:
        if str(path).endswith(f"raw/{locked}"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        interrupted(raw, out)
        assert "permission denied" in (out / "source" / "train-000000.part.json").read_text()
    said = Listening()
    pack(raw, out, PackSettings(max_shard_samples=5), said)
    assert "2 of 9 shards are there already" in said.lines[0]
    pack(raw, tmp_path / "whole" / "set", PackSettings(max_shard_samples=5))
    assert contents(out / "source") == contents(tmp_path / "whole" / "set" / "source")


def test_an_interruption_between_two_shards_closes_the_engine(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        is_closed = False

        def map(
            self, work: Any, items: Sequence[Any], advance: Callable[[int], None]
        ) -> Generator[Any, None, None]:
            try:
                yield from LocalEngine(1).map(work, items, advance)
            finally:
                self.is_closed = True

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    engine = Closed()
    monkeypatch.setattr(packing_stage, "check_visible", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        pack(photo_folder, tmp_path / "out", PackSettings(max_shard_samples=5), engine=engine)  # type: ignore[arg-type]
    assert caught.traceback, "which keeps the frames and what they hold: nothing is left to their end"
    assert engine.is_closed
