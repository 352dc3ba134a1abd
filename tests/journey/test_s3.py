"""The line with its shards in an object store: what `limla` does with s3:// must equal what it does with a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from limla.benchmarking.data import photos_of_shards
from limla.manifest import list_variants
from limla.paths import AnyPath
from limla.results import read_predictions
from limla.storage import exists, listing, read_bytes
from tests.journey.stored import store, type_in, wait_for
from tests.object_store import Store

__all__ = ["store"]  # fixture


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A dataset of several shards, packed and re-encoded into a local folder."""
    return _make(tmp_path_factory.mktemp("local") / "photos", photo_folder)


@pytest.fixture(scope="module")
def remote(store: Store, photo_folder: Path) -> AnyPath:
    """The same dataset, made in the store by the same commands."""
    return _make(store.folder("photos"), photo_folder)


def _make(data_dir: AnyPath, photos: Path) -> AnyPath:
    shares = ("--train", 0.5, "--val", 0.25, "--test", 0.25)
    done = type_in("pack", photos, data_dir, *shares, "--shard-mb", 0.02)
    assert done.exit_code == 0, done.output
    done = type_in("reencode", data_dir, "--quality", "10,50", "--measure", 5)
    assert done.exit_code == 0, done.output
    return data_dir


def files(data_dir: AnyPath) -> dict[str, bytes]:
    """variant/name → bytes of everything there."""
    return {
        f"{variant}/{name}": read_bytes(data_dir / variant / name)
        for variant in list_variants(data_dir)
        for name in listing(data_dir / variant)
    }


def test_pack_and_reencode_write_the_same_bytes(local: Path, remote: AnyPath) -> None:
    expected, found = files(local), files(remote)
    assert len([name for name in expected if name.endswith(".tar")]) > 9
    assert sorted(found) == sorted(expected)
    assert found == expected


def test_benchmarks_measure_on_the_same_images(local: Path, remote: AnyPath) -> None:
    expected = photos_of_shards(local, 10)
    assert len(expected) == 10
    assert photos_of_shards(remote, 10) == expected
    done = type_in("bench", "--data-dir", remote / "nowhere", "--images", 2)
    assert done.exit_code == 2
    assert f"{remote}/nowhere/source: no such shard folder" in done.output


def test_nothing_is_left_in_the_making(store: Store, remote: AnyPath) -> None:
    names = {name for variant in list_variants(remote) for name in listing(remote / variant)}
    assert not [name for name in names if "part" in name or "tmp" in name or name == "settings.json"]
    assert store.uploads() == []
    assert not list((store.log.parent / "cache").glob("*")), "re-encoding leaves no copy behind"


def test_a_second_run_finds_nothing_to_do(remote: AnyPath, photo_folder: Path) -> None:
    before = files(remote)
    _make(remote, photo_folder)
    done = type_in("reencode", remote, "--quality", "10,50", "--measure", 5)
    assert "nothing to do" in done.stderr
    assert files(remote) == before


def test_reencode_makes_again_only_what_is_lost(remote: AnyPath, local: Path, store: Store) -> None:
    (remote / "jpeg-q10" / "train-000001.tar").unlink()
    mark = len(store.requests())
    done = type_in("reencode", remote, "--quality", "10,50", "--measure", 5)
    assert done.exit_code == 0, done.output
    assert "train-000001.tar" in done.stderr
    written = [line for line in store.requests()[mark:] if line.startswith("PUT") and ".tar" in line]
    assert len(written) == 1
    assert files(remote) == files(local)


def test_verify_reads_every_shard_and_names_the_bad_one(remote: AnyPath) -> None:
    done = type_in("verify", remote)
    assert done.exit_code == 0, done.output
    path = remote / "jpeg-q50" / "val-000000.tar"
    whole = read_bytes(path)
    try:
        path.write_bytes(whole[:-1024] + bytes([1]) * 1024)
        done = type_in("verify", remote)
        assert done.exit_code == 2
        assert f"{path}: altered" in done.stderr
        assert type_in("verify", remote, "--sizes-only").exit_code == 0
        path.write_bytes(whole[:-512])
        done = type_in("verify", remote, "--sizes-only")
        assert done.exit_code == 2
        assert "truncated" in done.stderr
    finally:
        path.write_bytes(whole)


def test_export_writes_the_same_files(local: Path, remote: AnyPath, tmp_path: Path) -> None:
    trees = []
    for name, data_dir in (("local", local), ("remote", remote)):
        done = type_in("export", data_dir, tmp_path / name)
        assert done.exit_code == 0, done.output
        trees.append({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")})
    assert trees[0] == trees[1]
    assert len(trees[0]) > 3 * 24


@pytest.fixture(scope="module")
def checkpoint(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(local, tmp_path_factory.mktemp("trained") / "local", "cpu")


def _train(data_dir: AnyPath, folder: Path, loader: str) -> Path:
    done = type_in(
        *("train", "--data-dir", data_dir, "--quality", "source,10", "--model", "compact", "--epochs", 1),
        *("--image-size", 32, "--batch-size", 8, "--loader", loader, "--device", "cpu", "--output-dir", folder),
    )
    assert done.exit_code == 0, done.output
    return folder / "best.pt"


def _evaluate(data_dir: AnyPath, checkpoint: Path, folder: Path, loader: str, *more: str) -> dict[str, bytes]:
    done = type_in(
        *(
            "evaluate",
            "--checkpoint",
            checkpoint,
            "--data-dir",
            data_dir,
            "--attack",
            "none,fgsm",
            "--batch-size",
            4,
        ),
        *("--loader", loader, "--device", "cpu", "--output-dir", folder, *more),
    )
    assert done.exit_code == 0, done.output
    return {path.name: path.read_bytes() for path in (folder / "predictions").iterdir()}


@pytest.mark.parametrize("loader", ["cpu", "dali", "webdataset"])
def test_training_and_evaluation_give_the_rows_of_the_local_run(
    loader: str, local: Path, remote: AnyPath, checkpoint: Path, tmp_path: Path
) -> None:
    weights = [_train(place, tmp_path / name, loader) for name, place in (("l", local), ("r", remote))]
    states = [torch.load(path, weights_only=True)["model"] for path in weights]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    expected = _evaluate(local, checkpoint, tmp_path / "rows-local", loader)
    assert len(expected) == 6
    assert _evaluate(remote, checkpoint, tmp_path / "rows-remote", loader) == expected


def test_a_second_evaluation_fetches_no_shard(
    remote: AnyPath, checkpoint: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMLA_CACHE_DIR", str(tmp_path / "cache"))
    mark = len(store.requests())
    first = _evaluate(remote, checkpoint, tmp_path / "first", "cpu")
    asked = store.requests()[mark:]
    tars = [line for line in asked if line.startswith("GET") and ".tar" in line]
    assert len(tars) == len(set(tars)) > 3, "each test shard once"
    assert all("test-" in line for line in tars)
    assert not [line for line in asked if line.startswith("HEAD") and ".tar" in line], (
        "sizes come from the listing"
    )
    mark = len(store.requests())
    assert _evaluate(remote, checkpoint, tmp_path / "second", "cpu") == first
    assert not [line for line in store.requests()[mark:] if ".tar" in line]


def test_dali_reads_s3_itself(
    local: Path,
    remote: AnyPath,
    checkpoint: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIMLA_CACHE_DIR", str(tmp_path / "cache"))
    expected = _evaluate(local, checkpoint, tmp_path / "local", "dali")
    mark = len(store.requests())
    assert _evaluate(remote, checkpoint, tmp_path / "remote", "dali", "--no-verify") == expected
    assert [line for line in store.requests()[mark:] if line.startswith("GET") and ".tar" in line]
    assert not (tmp_path / "cache").exists(), "DALI reads the store itself"


def test_a_changed_object_is_named_and_not_evaluated(remote: AnyPath, checkpoint: Path, tmp_path: Path) -> None:
    path = remote / "jpeg-q10" / "test-000001.tar"
    whole = read_bytes(path)
    words = (
        *("evaluate", "--checkpoint", checkpoint, "--data-dir", remote, "--quality", 10, "--loader", "cpu"),
        *("--device", "cpu", "--output-dir", tmp_path / "rows"),
    )
    environment = {"LIMLA_CACHE_DIR": str(tmp_path / "cache")}
    try:
        for damaged, message in (
            (whole[:700] + bytes([whole[700] ^ 1]) + whole[701:], "altered since it was made"),
            (whole[:-512], "truncated or altered"),
        ):
            path.write_bytes(damaged)
            # also without --verify: what comes over the network is always hashed
            for more in ((), ("--no-verify",)):
                done = type_in(*words, *more, env=environment)
                assert done.exit_code == 2, done.output
                assert f"{path}: " in done.stderr
                assert message in done.stderr
        path.unlink()
        done = type_in(*words, env=environment)
        assert done.exit_code == 2
        assert f"{path}: missing" in done.stderr
    finally:
        path.write_bytes(whole)
    assert not (tmp_path / "rows" / "predictions").exists()
    assert not list((tmp_path / "cache").glob("*.limla-tmp"))


def test_killed_reencoding_goes_on_and_never_shows_half_a_shard(
    remote: AnyPath, local: Path, store: Store, tmp_path: Path
) -> None:
    words = ("reencode", "--quality", "30,70", "--measure", "none", "--workers", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "limla", *words, str(remote)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    mark = len(store.requests())
    try:
        wait_for(lambda: any("q30" in line and ".part.json" in line for line in store.requests()[mark:]))
    finally:
        process.kill()
        process.wait()
    assert not exists(remote / "jpeg-q30" / "manifest.json")
    assert type_in(*words, local).exit_code == 0
    sizes = listing(local / "jpeg-q30")
    there = {name: size for name, size in listing(remote / "jpeg-q30").items() if name.endswith(".tar")}
    assert there.items() <= sizes.items(), "every shard that can be seen is whole"
    done = type_in(*words, remote)
    assert done.exit_code == 0, done.output
    assert files(remote) == files(local)


def test_processes_that_need_one_shard_fetch_it_once(remote: AnyPath, store: Store, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom limla.cache import fetch\nfrom limla.manifest import read_manifest\n"
        "from limla.paths import open_folder\nfolder = open_folder(sys.argv[1])\n"
        "shard = read_manifest(folder).shards[0]\nprint(fetch(folder / shard.name, shard).path)\n"
    )
    environment = {**os.environ, "LIMLA_CACHE_DIR": str(tmp_path)}
    mark = len(store.requests())
    words = [sys.executable, "-c", script, str(remote / "source")]
    processes = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(paths) == 1
    assert len([line for line in store.requests()[mark:] if line.startswith("GET") and ".tar" in line]) == 1


def test_a_study_may_keep_its_shards_in_the_store(store: Store, tmp_path: Path) -> None:
    assert type_in("calibration", tmp_path / "photos", "--images", 6, "--image-size", 32).exit_code == 0
    (tmp_path / "study.toml").write_text(
        """
        raw = "photos"
        data_dir = "s3://bucket/study/calibration"
        output_dir = "out"
        qualities = [20]
        measure = 4
        models = ["compact"]
        train = ["source"]
        image_size = 32
        resize = "none"
        loader = "cpu"
        device = "cpu"
        split = { train = 0.5, val = 0.25, test = 0.25 }
        training = { epochs = 1, batch_size = 16 }
        evaluation = { attacks = ["fgsm"], batch_size = 8 }
        """,
        encoding="utf-8",
    )
    done = type_in("run", tmp_path / "study.toml")
    assert done.exit_code == 0, done.output
    assert list_variants(store.folder("study/calibration")) == ["source", "jpeg-q20"]
    assert {condition.dataset for condition, _ in read_predictions(tmp_path / "out" / "results")} == {
        "calibration"
    }
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "bits per pixel" in page
    assert not (tmp_path / "s3:").exists()
    report = tmp_path / "by-hand.html"
    done = type_in(
        "report",
        tmp_path / "out" / "results",
        "--data-dir",
        "s3://bucket/study/calibration",
        "--output",
        report,
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "encoding.csv").exists()
