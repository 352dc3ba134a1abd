"""Every benchmark runs on a handful of images; never their speed, but that all contenders did the same work."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from limla.benchmarking import STAGES, BenchSettings, Comparison, Contender, bench, checks, comparisons
from limla.benchmarking.data import generated_photos, photos_of_folder
from limla.benchmarking.folders import temporary_folder
from limla.benchmarking.harness import ContenderRow, PassRow, RatioRow, as_record, compare
from limla.benchmarking.machine import describe_machine
from limla.benchmarking.memory import MemorySampler, tree_memory
from limla.benchmarking.passes import Steps, time_pass
from limla.cli.bench import _table
from limla.cli.bench import bench as bench_command
from limla.cli.console import ConsoleProgress
from limla.errors import BenchmarkError, DataError, MissingDependencyError, SettingsError
from limla.files import write_json
from tests.toy import make_toy

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_IMAGES = 6


# contenders of these tests, found by name in the child -----------------------------------------------------------


def count(number: int, check: bool, parts: bool = False, megabytes: int = 0) -> Steps:
    yield 0
    ballast = np.ones(megabytes * 10**6, np.uint8)
    for _ in range(number):
        time.sleep(0.01)
        yield ("slow", 1) if parts else 1
    if megabytes:
        time.sleep(1)  # long enough to be sampled on a busy machine
    return {"checked": check, "ballast": int(ballast.sum()) // 10**6}


def fail(check: bool) -> Steps:
    yield 0
    raise RuntimeError(f"on purpose, {check}")


_calls = 0


def slow_at_first(number: int, check: bool) -> Steps:
    global _calls
    _calls += 1
    yield 0
    if _calls == 1:
        time.sleep(0.2)
    yield from count(number, check)


def fail_when_measured(check: bool) -> Steps:
    yield 0
    yield 1
    assert check, "only the first pass is well"
    return {}


def lacking(check: bool) -> Steps:
    raise MissingDependencyError(f"no such package, {check}")
    yield 0


def noisy(check: bool) -> Steps:
    yield 0
    os.write(1, b"a library prints\n")
    yield 1
    return {"checked": check}


def _contender(name: str, work: str, **arguments: Any) -> Contender:
    return Contender(name, f"tests.unit.test_benchmarks:{work}", "a test", arguments)


# the harness -----------------------------------------------------------------------------------------------------


def test_contenders_take_turns_and_ratios_stay_within_a_round() -> None:
    contenders = [_contender("a", "count", number=2), _contender("b", "count", number=2)]
    found = compare(contenders, ["a"], rounds=2)
    assert [(row.contender, row.round) for row in found.passes] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    (ratio,) = found.ratios
    speeds = [row.images_per_s for row in found.passes]
    assert ratio.per_round == (speeds[1] / speeds[0], speeds[3] / speeds[2])
    assert ratio.low <= ratio.median <= ratio.high
    assert all(row.facts == {"checked": False, "ballast": 0} for row in found.passes)
    assert found.row("a").first_pass_images_per_s == found.row("a").images_per_s  # each timed pass is the first


def test_the_first_pass_of_a_process_is_told_apart_from_the_timed_one() -> None:
    one = dataclasses.replace(_contender("a", "slow_at_first", number=2), warm_up={})
    found = compare([one], [], rounds=1).row("a")
    assert found.first_pass_images_per_s is not None
    assert found.first_pass_images_per_s < found.images_per_s / 2
    assert found.first_batch_s >= 0.2


def test_an_optional_contender_that_fails_stops_nothing() -> None:
    failing = dataclasses.replace(_contender("b", "fail_when_measured"), optional=True)
    found = compare([_contender("a", "count", number=1), failing, _contender("c", "count", number=1)], ["b"], 1)
    assert [row.contender for row in found.contenders] == ["a", "c"]
    assert {row.contender for row in found.passes} == {"a", "c"}
    assert "'b' ended with code 1" in found.skipped["b"]
    assert found.ratios == ()


def test_the_untimed_pass_alone_is_timed_when_no_rounds_are_asked_for() -> None:
    found = compare([_contender("a", "count", number=3, parts=True)], [], rounds=0)
    (row,) = found.passes
    assert (row.part, row.num_images, row.facts["checked"]) == ("slow", 3, True)
    assert row.seconds >= 0.03
    assert row.first_batch_s >= 0.01


def test_memory_counts_what_a_child_process_holds() -> None:
    found = compare(
        [
            _contender("small", "count", number=1, megabytes=1),
            _contender("large", "count", number=1, megabytes=80),
        ],
        [],
        0,
    )
    small, large = found.row("small").peak_private_mb, found.row("large").peak_private_mb
    assert small is not None
    assert large is not None
    assert 70 < large - small < 90


def test_memory_of_grandchildren_counts_and_of_ended_processes_is_none() -> None:
    inner = "import time; ballast = b'1' * 60_000_000; time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as process, MemorySampler(process.pid) as sampler:
        process.wait()
    assert sampler.peak is not None
    assert sampler.peak.private_mb > 60
    assert tree_memory(process.pid) is None


def test_a_failing_contender_is_one_line_with_its_error() -> None:
    with pytest.raises(BenchmarkError, match=r"'bad' ended with code 1: .*on purpose, True"):
        compare([_contender("bad", "fail")], [], 1)


def test_a_contender_without_its_package_is_skipped_with_the_reason() -> None:
    found = compare([_contender("a", "noisy"), _contender("b", "lacking")], ["b"], 1)
    assert found.skipped == {"b": "no such package, True"}
    assert [row.contender for row in found.contenders] == ["a"]
    assert found.ratios == ()


def test_unequal_work_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="'b' finished 2 images where 'a' finished 1"):
        compare([_contender("a", "count", number=1), _contender("b", "count", number=2)], ["a"], 1)
    with pytest.raises(BenchmarkError, match="finished no image"):
        compare([_contender("a", "count", number=0)], [], 1)


def test_closing_counts_as_work() -> None:
    def work(check: bool) -> Steps:
        yield 0
        yield 1
        time.sleep(0.05)
        return {"checked": check}

    done = time_pass(work, {"check": False})
    assert done.parts[""].seconds >= 0.05 > done.first_batch_s


# the checks ------------------------------------------------------------------------------------------------------


def _facts(images: np.ndarray[Any, Any]) -> dict[str, Any]:
    facts = checks.PictureFacts()
    facts.add(images.astype(np.float32))
    return facts.facts()


def test_other_pictures_are_told_apart() -> None:
    images = np.random.default_rng(0).random((4, 3, 16, 16)) * np.linspace(0, 1, 16)
    check = checks.same_pictures("a")
    order = {"a": _facts(images), "b": _facts(images[::-1]), "limit": {}}
    assert check(order)["differences"]["b"]["image_means_differ_by"] < 1e-6
    for other in (
        images[..., ::-1],
        images[:, ::-1] * [[[[1]], [[0.9]], [[1]]]],
        images[[0, 0, 1, 2]],
        images / 2,
    ):
        with pytest.raises(BenchmarkError, match="loaded other pictures"):
            check({"a": _facts(images), "b": _facts(other)})


def test_other_files_are_told_apart() -> None:
    check = checks.same_files("a")
    assert check({"a": {"files": {"5": [2, 100]}}, "b": {"files": {"5": [2, 104]}}})["bytes_over_reference"][
        "b"
    ] == {"5": 1.04}
    for other in ([1, 100], [2, 110], [2, 90]):
        with pytest.raises(BenchmarkError, match="not the same work"):
            check({"a": {"files": {"5": [2, 100]}}, "b": {"files": {"5": other}}})


def test_other_predictions_are_told_apart(tmp_path: Path) -> None:
    facts = {}
    for name, predictions in (("a", [0, 1, 1, 1]), ("close", [1, 1, 1, 1]), ("b", [1, 0, 1, 1])):
        path = tmp_path / f"{name}.npz"
        np.savez(path, images=np.zeros((4, 3, 8, 8)), predictions=np.array(predictions))
        facts[name] = {"saved": {"pgd": str(path)}}
    assert checks.same_attacks("a", "a")(facts)["parts"]["pgd"]["fraction_of_predictions_equal"] == 1
    # one image of a few is luck, two are not
    assert checks.same_attacks("a", "close")(facts)["parts"]["pgd"]["fraction_of_predictions_equal"] == 0.75
    with pytest.raises(BenchmarkError, match="agree on only 50%"):
        checks.same_attacks("a", "b")(facts)


# limla bench -----------------------------------------------------------------------------------------------------


def test_limla_bench_prints_a_table_and_writes_json(photo_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    arguments = ["--photos", str(photo_folder), "--images", "4", "--stage", "reencode", "--rounds", "1"]
    done = CliRunner().invoke(bench_command, [*arguments, "--output", str(output)])
    assert done.exit_code == 0, done.output
    found = json.loads(output.read_text())["reencode"]
    assert found["machine"]["num_cores"] >= 1
    assert found["machine"]["versions"]["limla"]
    assert found["settings"]["num_images"] == 4
    assert [row["num_images"] for row in found["passes"]] == [4, 4, 4]
    assert "in-memory limit" in done.output


def _here(
    contenders: Sequence[Contender],
    references: Any,
    rounds: int,
    check: Any = dict,
    progress: Any = None,
    title: str = "",
) -> Comparison:
    """`compare` without processes: one pass of each contender here; its speeds and memory mean nothing."""
    passes = {one.name: time_pass(_find(one.work), {**one.arguments, "check": True}) for one in contenders}
    rows = [
        PassRow(name, part, 1, times.num_images, times.seconds, 1.0, 1.0, 1.0, done.facts)
        for name, done in passes.items()
        for part, times in done.parts.items()
    ]
    shown = [
        ContenderRow(
            row.contender,
            row.part,
            "",
            row.num_images,
            speed,
            speed,
            speed,
            speed,
            1.0,
            1.0,
            row.num_images,
            None,
        )
        for row in rows
        for speed in [row.num_images / row.seconds]
    ]
    agreement = check({name: done.facts for name, done in passes.items()})
    return Comparison(tuple(shown), (), tuple(rows), {}, agreement)


def _find(work: str) -> Any:
    module, name = work.split(":")
    return getattr(importlib.import_module(module), name)


def test_every_stage_of_limla_bench_does_equal_work(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparisons, "compare", _here)
    settings = BenchSettings(
        photos=photo_folder,
        num_images=4,
        num_attacked=2,
        rounds=1,
        model="compact",
        image_size=36,
        batch_size=3,
    )
    found = bench(settings)
    assert tuple(found) == STAGES
    assert {row.num_images for row in found["load"].passes} == {4}
    assert set(found["load"].agreement["differences"]) == {"limla dali", "limla webdataset"}
    assert [row.part for row in found["evaluate"].passes] == ["clean", "fgsm", "pgd"] * 2
    (end_to_end,) = found["end-to-end"].passes
    assert 0 < end_to_end.facts["model"] < end_to_end.seconds
    head, *_, last = _table("end-to-end", found["end-to-end"], 1)
    assert "waiting for the loader" in last
    assert "ratio" not in head


def test_a_table_shows_only_what_says_something() -> None:
    def row(name: str, part: str, first_pass: float | None) -> ContenderRow:
        return ContenderRow(name, part, "", 8, 20.0, 19.0, 21.0, first_pass, 1.5, 0.25, None, None)

    rows = tuple(
        row(name, part, 10.0 if part == "clean" else None) for name in "ab" for part in ("clean", "pgd")
    )
    ratios = tuple(RatioRow("b", part, "a", 2.0, 1.8, 2.2, (1.8, 2.2)) for part in ("clean", "pgd"))
    compared = Comparison(rows, ratios, (), {}, {})
    shown = _table("evaluate", compared, 2)
    assert shown[0].split("  ")[-1] == "range"
    assert "first batch s" not in shown[0]  # of the first attack, whatever the line is of
    assert "peak MB" not in shown[0]
    assert shown[1].split() == ["a,", "clean", "20.0", "10.0", "1.50", "–", "–"]
    assert shown[4].split() == ["b,", "pgd", "20.0", "–", "1.50", "2.00", "1.80–2.20"]
    assert shown[5] == (
        "ratio: images/s over those of a; mean of 2 rounds and their range: more (--rounds) make it surer"
    )
    assert "; median of 3 rounds and" in _table("evaluate", compared, 3)[-1]
    alone = Comparison((row("a", "", 20.0),), (), (), {}, {})
    assert _table("end-to-end", alone, 3)[0].split() == ["images/s", "CPU", "ms/image"]
    assert "first batch s" in _table("load", alone, 3)[0]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_ended_benchmark_leaves_nothing(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [
        sys.executable,
        "-m",
        "limla",
        "bench",
        "--stage",
        "reencode",
        "--images",
        "64",
        "--rounds",
        "50",
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, process_group=0, text=True)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("limla-bench-*/photos/jpeg-q90")):  # a contender is at work
        assert process.poll() is None
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in error
    if number == signal.SIGKILL:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        while list(tmp_path.iterdir()):
            assert time.monotonic() < end + 20, "the contender goes on, or the next benchmark leaves its folder"
            time.sleep(0.5)
            with temporary_folder():
                pass
    assert not list(tmp_path.iterdir())


def test_only_what_a_killed_benchmark_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        "import os, signal, sys, tempfile; from limla.benchmarking.folders import temporary_folder\n"
        "with temporary_folder() as folder:\n"
        "    (folder / 'photos').mkdir(); print(folder, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    started = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = [Path(process.stdout.readline().strip()) for process in started if process.stdout]
    killed, running = started
    killed.kill()
    killed.communicate()
    (tmp_path / "limla-bench-without-a-mark" / "photos").mkdir(parents=True)
    of_this_process = tmp_path / "limla-bench-unlocked"
    of_this_process.mkdir()
    (of_this_process / ".in-use").write_text(f"limla bench, process {os.getpid()}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".in-use").write_text(f"limla bench, process {killed.pid}\n")
    (tmp_path / "limla-bench-link").symlink_to(elsewhere)
    try:
        with temporary_folder() as mine:
            assert mine.is_dir()
            left = {path for path in tmp_path.iterdir() if path not in (mine, elsewhere)}
            names = ("limla-bench-without-a-mark", "limla-bench-unlocked", "limla-bench-link")
            assert left == {folders[1], *(tmp_path / name for name in names)}
            assert (elsewhere / ".in-use").exists()
    finally:
        running.communicate("")
    assert running.returncode == 0
    assert not mine.exists()
    assert not folders[1].exists()


def test_packed_shards_are_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_toy(tmp_path / "toy")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "toy").rglob("*"))
    monkeypatch.setattr(comparisons, "compare", _here)
    found = bench(BenchSettings(stages=("reencode",), data_dir=tmp_path / "toy", num_images=60, rounds=1))
    assert {row.num_images for row in found["reencode"].passes} == {60}  # 56 images, the first ones twice
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "toy").rglob("*")) == before


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["--stage", "loading"], "unknown stage 'loading'"),
        (["--photos", str(tmp_path), "--data-dir", str(tmp_path)], "name one of them"),
        (["--photos", str(tmp_path)], "no JPEG"),
        (["--photos", str(tmp_path), "--min-side", "500"], "no JPEG with a side of at least 500 pixels"),
        (["--min-side", "500"], "min side chooses among the files of a folder"),
        (["--data-dir", str(tmp_path)], "no such shard folder"),
        (["--output", str(tmp_path / "no" / "x.json")], "no such folder"),
    ):
        done = CliRunner().invoke(bench_command, arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert message in done.output
        assert len(done.output.strip().splitlines()) == 1, done.output
    done = CliRunner().invoke(bench_command, ["--images", "0"])
    assert done.exit_code == 2
    assert "'--images': 0 is not in the range x>=1" in done.output


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="rounds is 0"):
        BenchSettings(rounds=0)
    with pytest.raises(SettingsError, match="num images is 0"):
        BenchSettings(num_images=0)


def test_generated_photos_are_equal_in_every_run_and_photos_are_chosen_by_side(photo_folder: Path) -> None:
    assert generated_photos(2) == generated_photos(2)
    assert {max(photo.height, photo.width) for photo in generated_photos(3)} == {500}
    assert len(photos_of_folder(photo_folder, 5)) == 5
    with pytest.raises(DataError, match="at least 4000 pixels"):
        photos_of_folder(photo_folder, 5, 4000)


# benchmarks/ -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos of about 500×375, one fewer than the benchmarks are asked for."""
    folder = tmp_path_factory.mktemp("large")
    for number, photo in enumerate(generated_photos(NUM_IMAGES - 1)):
        (folder / f"{number}.jpg").write_bytes(photo.data)
    return folder


@pytest.fixture(scope="module")
def measured(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON files of the benchmarks with peers, one pass of each in its own process."""
    results = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(BENCHMARKS / "compare.py"), str(photos), "--only", "reencode,load"]
    command += ["--images", str(NUM_IMAGES), "--batch-size", "2", "--rounds", "0", "--output-dir", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return results


def _record(results: Path, name: str) -> dict[str, Any]:
    return json.loads((results / f"{name}.json").read_text())


def test_every_contender_of_reencoding_made_the_same_files(measured: Path) -> None:
    found = _record(measured, "reencode")
    names = {row["contender"] for row in found["contenders"]}
    limits = {"in-memory limit", "in-memory limit, colours converted once"}
    assert names == limits | {"limla reencode", "webdataset + ShardWriter", "Pillow to loose files"}
    assert {row["num_images"] for row in found["contenders"]} == {NUM_IMAGES}
    bytes_over = found["agreement"]["bytes_over_reference"]
    # the same codec with the same settings; Pillow's DCT differs
    assert set(bytes_over["webdataset + ShardWriter"].values()) == {1.0}
    assert set(bytes_over["in-memory limit, colours converted once"].values()) == {1.0}
    assert list(bytes_over["limla reencode"].values()) == pytest.approx([1.0] * 7, abs=0.01)
    assert len(bytes_over["Pillow to loose files"]) == 7


def test_spdl_without_ffmpeg_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    spdl_io = pytest.importorskip("spdl.io")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers  # type: ignore[import-not-found]

    def no_ffmpeg() -> None:
        raise RuntimeError("Failed to import FFmpeg binding")

    monkeypatch.setitem(vars(spdl_io), "demux_config", no_ffmpeg)
    with pytest.raises(MissingDependencyError, match="apt install --no-install-recommends ffmpeg"):
        next(peers.spdl("nowhere", 1, 1, False))


def test_every_contender_of_loading_gave_the_same_pictures(measured: Path) -> None:
    found = _record(measured, "load")
    names = {row["contender"] for row in found["contenders"]}
    assert len(names) + len(found["skipped"]) == 8
    assert "DALI as in its documentation" in names
    assert set(found["skipped"]) <= {"SPDL"}
    assert {row["num_images"] for row in found["contenders"]} == {NUM_IMAGES}
    assert set(found["agreement"]["differences"]) == names - {"decode-only limit", "limla cpu"}


def test_models_and_growth_are_measured_and_the_page_is_made_from_the_json(
    photos: Path, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compare as script  # type: ignore[import-not-found]
    import growth  # type: ignore[import-not-found]
    import throughput  # type: ignore[import-not-found]

    monkeypatch.setattr(script, "compare", _here)
    monkeypatch.setattr(growth, "compare", _here)
    monkeypatch.setattr(growth, "_REST_S", 0)
    options = script.Options(num_images=4, num_evaluated=2, num_small=200, batch_size=2, rounds=1, threads=2)
    for name in ("evaluate", "end-to-end", "growth"):
        values = script.measure(name, photos_of_folder(photos, 2), options, ConsoleProgress())
        settings = {**dataclasses.asdict(options), "evaluated": 2, "images": 4}
        write_json(tmp_path / f"{name}.json", as_record(values, "a test", "pytest", settings))

    parts = _record(tmp_path, "evaluate")["agreement"]["parts"]
    assert set(parts) == {"clean", "fgsm", "pgd"}
    assert parts["clean"]["fraction_of_values_equal_within_1e-5"] == 1
    passes = _record(tmp_path, "end-to-end")["passes"]
    assert [row["contender"] for row in passes] == [
        "limla evaluate, clean",
        "limla evaluate, clean + FGSM + PGD",
    ]
    assert all(0 < row["facts"]["waiting"] + row["facts"]["model"] < row["seconds"] for row in passes)
    rows = _record(tmp_path, "growth")["growth"]
    assert [row["stage"] for row in rows] == ["pack", "reencode", "load", "evaluate"]
    assert [row["num_images"] for row in rows[:2]] == [[10, 100, 200]] * 2
    assert rows[0]["peak_memory_ratio"] == 20  # `_here` gives as many MB as images

    for name in ("reencode", "load"):
        (tmp_path / f"{name}.json").write_bytes((measured / f"{name}.json").read_bytes())
    throughput.write_page(tmp_path, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    ratio = next(row for row in _record(measured, "reencode")["ratios"] if row["contender"] == "limla reencode")
    assert f"| limla reencode | in-memory limit | ≥ 0.9 | ≥ 0.95 | **{ratio['median']:.2f}**" in page
    assert "| limla cpu | DALI as in its documentation | – | – | **" in page
    assert "is the pipeline of DALI's own examples" in page
    assert "| peak memory of pack, 200 images | 10 images | ≤ 1.05 | – | **20.00** | **grows** |" in page
    assert "Still to be measured" in page
    assert "Not measured yet" not in page
    assert "limla reencode" in (tmp_path / "benchmarks.svg").read_text()


def test_a_page_without_results_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import throughput  # type: ignore[import-not-found]

    throughput.write_page(tmp_path, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.count("Not measured yet.") == 5
    assert "| limla cpu | limla dali | ≥ 2.2 | ≥ 3.5 | – | not measured yet |" in page
    assert "DALI as in its documentation" not in page
    gpu = {
        "command": "x",
        "machine": describe_machine(),
        "loading": [{"loader": "dali", "images_per_s": 1234.5678}],
    }
    (tmp_path / "gpu.json").write_text(json.dumps(gpu))
    throughput.write_page(tmp_path, tmp_path)
    assert "| dali | 1234.6 |" in (tmp_path / "benchmarks.md").read_text()
