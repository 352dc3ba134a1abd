"""The benchmark behind docs/simulation.md: what it times does the same work, and the page holds what it gave."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from limla.loaders.cpu import CpuLoader
from limla.manifest import read_manifest
from tests.unit.launching import one_thread
from tests.unit.things import NUM_THINGS, data_dir, write_things_checkpoint

__all__ = ["data_dir", "one_thread"]  # fixtures
ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, which imports its neighbours in benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("simulation")


def test_the_page_holds_what_was_measured(benchmark: ModuleType, tmp_path: Path) -> None:
    data = json.loads((ROOT / "benchmarks/results/simulation.json").read_text())
    page = ROOT / "docs/simulation.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text())
    benchmark.write_page(data, copy)
    assert copy.read_text() == page.read_text()
    assert {row["num_images"] for rows in data["comparison"].values() for row in rows} == {data["num_images"]}


def test_contenders_make_every_image_at_every_quality(
    benchmark: ModuleType, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_images: list[int] = []
    checkpoint = write_things_checkpoint(tmp_path / "best.pt", data_dir)
    finish = CpuLoader._finish

    def counted(*arguments: object) -> object:
        batches = finish(*arguments)  # type: ignore[arg-type]
        num_images.extend(len(batch.keys) for batch in batches)
        return batches

    monkeypatch.setattr("limla.loaders.threads.ThreadedStreams._finish", counted)
    for what in ("shards cpu", "simulate cpu"):
        for with_model in (False, True):
            job = benchmark.Job(what, data_dir, checkpoint, with_model, (3, 40), "test")
            assert 0 < benchmark.measure(job) < 60
            assert sum(num_images) == 2 * NUM_THINGS, job
            num_images.clear()


def test_reencoding_is_of_one_split_and_leaves_the_data_alone(
    benchmark: ModuleType, data_dir: Path, tmp_path: Path
) -> None:
    job = benchmark.Job("reencode", data_dir, tmp_path / "unused.pt", False, (3, 40), "test")
    before = sorted(data_dir.rglob("*"))
    assert benchmark.measure(job) > 0
    assert sorted(data_dir.rglob("*")) == before
    benchmark._copy_split(data_dir, tmp_path / "copy", "test")
    assert read_manifest(tmp_path / "copy" / "source").splits() == ("test",)
