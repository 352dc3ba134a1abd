"""Benchmarks: contenders in turn, their memory, and the checks that all did the same work."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limla.benchmarking import Contender, checks
from limla.benchmarking.harness import compare
from limla.benchmarking.memory import MemorySampler, tree_memory
from limla.benchmarking.passes import Steps, time_pass
from limla.errors import BenchmarkError, MissingDependencyError

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
    return Contender(name, f"tests.unit.test_benchmark_harness:{work}", "a test", arguments)


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
