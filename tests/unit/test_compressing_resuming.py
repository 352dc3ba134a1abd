"""Compressing again: after a kill, Ctrl-C, a full disk, damage, a change of the pictures or of the settings."""

from __future__ import annotations

import errno
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

import pytest

from limla.compressing import CompressSettings, compress
from limla.engines.local import LocalEngine
from limla.engines.spark_context import check_java
from limla.errors import DataError, LimlaError, SettingsError
from limla.trees import conversion as trees_conversion
from tests.listening import Listening
from tests.unit.photos import photo, type_in

PNG = CompressSettings("png", 100)


def tree(folder: Path) -> dict[str, bytes]:
    """Path → bytes of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def marks(folder: Path) -> dict[str, tuple[int, int]]:
    """Path → what changes when a file is written again."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*.png")
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures in two folders, one of them damaged. Read only."""
    folder = tmp_path_factory.mktemp("pictures") / "in"
    for number in range(60):
        photo(folder / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    (folder / "cat" / "10.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one run makes of them."""
    out = tmp_path_factory.mktemp("whole") / "out"
    compress(pictures, out, PNG, engine=LocalEngine(1))
    return tree(out)


class StopsAfter:
    """The local engine, interrupted when some units are done."""

    def __init__(self, num_units: int) -> None:
        self.num_units = num_units

    def map(
        self, work: Any, items: Sequence[Any], advance: Callable[[int], None]
    ) -> Generator[Any, None, None]:
        yield from LocalEngine(2).map(work, items[: self.num_units], advance)
        raise KeyboardInterrupt


def test_an_interrupted_run_goes_on(pictures: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compress(pictures, out, PNG, engine=StopsAfter(3))
    before = marks(out)
    assert len(before) == 23, "three units of eight, less the damaged one"
    with (out / "limla-compress.journal").open("ab") as file:
        file.write(b'["dog/59.jpg", 12')  # killed as it wrote
    (out / "cat" / "12.png.host-1-ab.limla-tmp").write_bytes(b"half")
    said = Listening()
    result = compress(pictures, out, PNG, said)
    assert said.lines[0] == "23 files are finished already"
    assert result.num_made == 36
    assert said.total == 37
    assert before.items() <= marks(out).items()
    assert tree(out) == whole


class KilledBeforeRecording(StopsAfter):
    """The local engine, interrupted when some units are on disk and none is recorded."""

    def map(
        self, work: Any, items: Sequence[Any], advance: Callable[[int], None]
    ) -> Generator[Any, None, None]:
        assert list(LocalEngine(2).map(work, items[: self.num_units], advance))
        raise KeyboardInterrupt
        yield


def test_what_a_killed_run_did_not_record_is_still_its_own(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(3):
        photo(raw / f"{number}.jpg", number)
    out.mkdir()
    compress(raw / "2.jpg", out, PNG)
    (out / "1.png").write_bytes(b"mine")
    with pytest.raises(KeyboardInterrupt):
        compress(raw, out, PNG, engine=KilledBeforeRecording(1))
    photo(raw / "0.jpg", 77)  # edited meanwhile, as is what was there
    photo(raw / "1.jpg", 78)
    result = compress(raw, out, PNG)
    assert [one.path for one in result.refused] == ["1.jpg"]
    assert (out / "1.png").read_bytes() == b"mine", "it was there before the run that was killed"
    compress(raw / "0.jpg", tmp_path / "fresh", PNG)
    assert (out / "0.png").read_bytes() == (tmp_path / "fresh" / "0.png").read_bytes()


def test_a_row_after_a_torn_line_is_not_lost(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(9):
        photo(raw / f"{number}.jpg", number)
    with pytest.raises(KeyboardInterrupt):
        compress(raw, out, PNG, engine=KilledBeforeRecording(1))
    with (out / "limla-compress.journal").open("ab") as file:
        file.write(b'["0.jpg", 12')
    with pytest.raises(KeyboardInterrupt):
        compress(raw, out, PNG, engine=StopsAfter(1))
    said = Listening()
    assert compress(raw, out, PNG, said).num_made == 1
    assert said.lines == ["8 files are finished already"]


@pytest.mark.parametrize("workers", [2, 9])
def test_bytes_do_not_depend_on_the_workers(
    pictures: Path, whole: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    compress(pictures, tmp_path / "out", PNG, engine=LocalEngine(workers))
    assert tree(tmp_path / "out") == whole


def run_limla(*words: object, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from limla.cli import main; main()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(pictures: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("compress", pictures, "--codec", "png", "--out", out, "--workers", 1)
    killed = 0
    for number in (1, 20, 40):
        process = run_limla(*words)
        while process.poll() is None and len(list(out.glob("*/*.png"))) < number:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 2
    last = run_limla(*words)
    last.communicate()
    assert last.returncode == 2, "one picture is damaged"
    assert tree(out) == whole


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    pictures: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "out", list[Path]()
    real = trees_conversion.write_bytes

    def write(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) > 30:
            raise OSError(errno.ENOSPC, "No space left on device", str(path.parent))
        real(path, data)

    monkeypatch.setattr(trees_conversion, "write_bytes", write)
    done = type_in("compress", pictures, "--codec", "png", "--out", out)
    assert done.exit_code == 1
    assert "No space left on device; what is complete was kept: run this command again" in done.stderr
    assert "Traceback" not in done.output
    monkeypatch.undo()
    assert all(whole[name] == data for name, data in tree(out).items() if name.endswith(".png"))
    compress(pictures, out, PNG)
    assert tree(out) == whole


def test_a_file_that_outgrows_the_disk(pictures: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """The limit on a file's size stands for the full disk: the write itself fails."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    out = tmp_path / "out"
    process = run_limla("compress", pictures, "--codec", "png", "--out", out, preexec_fn=limit)
    _, error = process.communicate()
    assert process.returncode == 1
    assert b"File too large; what is complete was kept" in error
    assert b"Traceback" not in error
    assert not list(out.rglob("*.limla-tmp"))
    compress(pictures, out, PNG)
    assert tree(out) == whole


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(3):
        photo(raw / f"{number}.jpg", number)
    compress(raw, out, PNG)
    before, files = tree(out), marks(out)
    said = Listening()
    result = compress(raw, out, PNG, said)
    assert (result.num_made, said.lines) == (0, [f"nothing to do: {out} is complete"])
    assert len(result.rows) == 3
    assert (tree(out), marks(out)) == (before, files)


def test_only_what_changed_is_made_again(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(6):
        photo(raw / f"{number}.jpg", number)
    compress(raw, out, PNG)
    before = marks(out)
    photo(raw / "0.jpg", 77)  # another picture
    os.utime(raw / "1.jpg")  # only touched: made again, but not written
    (out / "2.png").unlink()
    (out / "3.png").write_bytes(b"mine")
    photo(raw / "new.jpg", 5)
    (raw / "4.jpg").unlink()
    said = Listening()
    result = compress(raw, out, PNG, said)
    assert [one.path for one in result.refused] == ["3.jpg"]
    assert f"another file is in the way: {out / '3.png'}; move it away" in result.refused[0].reason
    assert (out / "3.png").read_bytes() == b"mine"
    (out / "3.png").unlink()
    assert result.num_made + compress(raw, out, PNG).num_made == 5
    after = marks(out)
    assert {name for name in before if after[name] != before[name]} == {"0.png", "2.png", "3.png"}
    assert any("holds what was made of 1 files that are no longer there" in line for line in said.lines)
    shutil.copytree(raw, tmp_path / "copy")
    compress(tmp_path / "copy", tmp_path / "fresh", PNG)
    fresh = {name: data for name, data in tree(tmp_path / "fresh").items() if name.endswith(".png")}
    assert fresh.items() <= tree(out).items()
    assert tree(out).keys() - tree(tmp_path / "fresh").keys() == {"4.png"}


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    photo(raw / "a.jpg", 1)
    compress(raw, out, PNG)
    for name in ("b", "c", "d"):
        photo(raw / f"{name}.jpg", 2)
    (out / "b.png").write_bytes(b"mine")
    (out / "c.png").mkdir()
    (out / "d.png").symlink_to(tmp_path / "nowhere")
    result = compress(raw, out, PNG)
    assert {one.path: one.reason.partition(":")[0] for one in result.refused} == {
        "b.jpg": "another file is in the way",
        "c.jpg": "a folder is in the way",
        "d.jpg": "another file is in the way",
    }
    assert (out / "b.png").read_bytes() == b"mine"
    assert (out / "d.png").is_symlink()
    (out / "b.png").unlink()
    assert {one.path for one in compress(raw, out, PNG).refused} == {"c.jpg", "d.jpg"}


def test_a_file_in_the_place_of_a_folder_is_one_refusal(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("a.jpg", "cat/b.jpg", "dog/old/c.jpg"):
        photo(raw / name)
    out.mkdir()
    compress(raw / "a.jpg", out, PNG)
    (out / "cat").write_bytes(b"mine")
    (out / "dog").symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        result = compress(raw, out, PNG)
        assert {one.path: one.reason for one in result.refused} == {
            "cat/b.jpg": f"a file is in the way: {out / 'cat'}; b.png needs a folder there: move it away",
            "dog/old/c.jpg": f"a file is in the way: {out / 'dog'}; c.png needs a folder there: move it away",
        }
    (out / "cat").unlink()
    (out / "dog").unlink()
    assert compress(raw, out, PNG).num_made == 2


def test_a_folder_with_the_name_of_a_result_is_said_beforehand(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("x.png", "x.jpg/deep/y.png", "z.png", "z_r000_c000.png/a.jpg"):
        photo(raw / name)
    done = type_in("compress", raw, "--quality", 50, "--out", out)
    assert done.exit_code == 2
    assert done.stderr == (
        f"Error: {raw}: what is made of a file would have the name of a folder: x.png and x.jpg/; rename one of each\n"
    )
    done = type_in("tile", raw, "--tile", 8, "--out", out)
    assert "z.png and z_r000_c000.png/; rename" in done.stderr
    assert not out.exists()


def test_other_settings_and_versions_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    photo(raw / "a.jpg")
    compress(raw, out, CompressSettings("jpeg", 30))
    before = tree(out)
    with pytest.raises(SettingsError, match="quality: 30 there, 31 asked for"):
        compress(raw, out, CompressSettings("jpeg", 31))
    with pytest.raises(SettingsError, match="codec subsampling: '420' there, '444' asked for"):
        compress(raw, out, CompressSettings("jpeg:subsampling=444", 30))
    monkeypatch.setattr("limla.codecs.jpeg.JpegCodec.version", lambda self: "simplejpeg 99")
    assert compress(raw, out, CompressSettings("jpeg", 30)).num_made == 0
    photo(raw / "b.jpg")
    with pytest.raises(SettingsError, match="simplejpeg 99"):
        compress(raw, out, CompressSettings("jpeg", 30))
    assert tree(out) == before
    done = type_in("decompress", raw, "--out", out)
    assert "not made by limla decompress" in done.stderr


def test_one_run_at_a_time(tmp_path: Path) -> None:
    photo(tmp_path / "raw" / "a.jpg")

    class Meanwhile:
        def map(self, work: Any, items: Any, advance: Any) -> Generator[Any, None, None]:
            with pytest.raises(SettingsError, match="limla compress is under way in another process"):
                compress(tmp_path / "raw", tmp_path / "out", PNG)
            yield from LocalEngine(1).map(work, items, advance)

    assert compress(tmp_path / "raw", tmp_path / "out", PNG, engine=Meanwhile()).num_made == 1


@pytest.mark.slow
def test_spark_makes_the_same_bytes(pictures: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    try:
        check_java()
    except LimlaError as error:
        pytest.skip(str(error))
    words = ("--engine", "spark", "--master", "local[2]")
    process = run_limla("compress", pictures, "--codec", "png", "--out", tmp_path / "out", *words)
    _, error = process.communicate()
    assert process.returncode == 2, error
    assert b"1 of 60 files refused" in error
    assert tree(tmp_path / "out") == whole


def test_damaged_records_are_said(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    photo(raw / "a.jpg")
    compress(raw, out, PNG)
    table = (out / "limla-compress.csv").read_text()
    no_size = "\n".join(line.replace(line.split(",")[1] + ",", "", 1) for line in table.splitlines())
    for text in (
        "source,what\na,b\n",
        no_size,
        "",
        table.replace(",24,", ",many,"),
        table + "a,b,c,d,e,f,g,h,i,j,k\n",
    ):
        (out / "limla-compress.csv").write_text(text)
        with pytest.raises(DataError, match=r"limla-compress\.csv: damaged .*; remove it, and run this again"):
            compress(raw, out, PNG)
    (out / "limla-compress.csv").unlink()
    (out / "limla-compress.json").write_text("{}")
    with pytest.raises(DataError, match=r"limla-compress\.json: damaged"):
        compress(raw, out, PNG)
