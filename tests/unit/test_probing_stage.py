"""`limla codec probe`: the same images for every input, parts that are kept, one table, errors in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from limla.cli import limla
from limla.cli.codec_probe import probe as command
from limla.codecs import build_codec
from limla.codecs.base import BinaryCodes
from limla.errors import DataError, SettingsError
from limla.files import TEMPORARY_SUFFIX
from limla.probing import ProbeSettings, linear, probe
from limla.probing.arrays import InputStore, code_cell, code_shapes
from limla.probing.settings import PIXELS, ProbeInput
from limla.probing.views import ViewGrid
from limla.progress import SILENT
from limla.registry import CODECS
from limla.statistics import holm, paired_difference, proportion_interval
from tests.catalogue import KNOBS
from tests.listening import Listening
from tests.toy import COUNTS, make_toy
from tests.unit import blocksigns

SIDE = 32
QUALITY = 4


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy dataset's originals. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "toy"
    make_toy(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def catalogue() -> Iterator[None]:
    """With a codec of binary codes in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODECS.plugs, blocksigns.NAME, blocksigns.PLUG)
        yield


def settings_for(data_dir: Path, output_dir: Path, **changes: Any) -> ProbeSettings:
    usual: dict[str, Any] = {"qualities": (QUALITY,), "epochs": 1, "seeds": (0, 1), "image_size": SIDE}
    return ProbeSettings(data_dir, output_dir, blocksigns.NAME, **{**usual, **changes}, device="cpu")


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a probe that was never interrupted. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    probe(settings_for(data_dir, folder))
    return folder


def findings(folder: Path) -> dict[str, Any]:
    """What the parts found, without how long it took."""
    found = {path.name: json.loads(path.read_text()) for path in (folder / "parts").iterdir()}
    return {
        name: {key: value for key, value in part.items() if key != "seconds"} for name, part in found.items()
    }


def test_any_codec_with_codes_meets_the_protocol() -> None:
    assert isinstance(blocksigns.BlockSigns(), BinaryCodes)
    assert not isinstance(build_codec("jpeg"), BinaryCodes)


def test_every_input_is_of_the_same_keys_and_views(data_dir: Path, tmp_path: Path) -> None:
    codec, grid = blocksigns.BlockSigns(), ViewGrid(SIDE, 8)
    assert code_cell(code_shapes(codec, (4, 8), SIDE), SIDE) == 8
    store = InputStore(tmp_path, data_dir, grid, codec)
    samples = store.samples(SILENT)
    assert {split: len(found.keys) for split, found in samples.items()} == COUNTS
    assert store.prepare(ProbeInput("codes", QUALITY), samples, SILENT) == 8 * (5 + QUALITY * 16 / 8) / SIDE**2
    for split, found in samples.items():
        assert found.labels.tolist() == [number % 3 for number in range(COUNTS[split])]
        pixels, decoded, codes = (
            store.whole(source, split)
            for source in (PIXELS, ProbeInput("decoded", QUALITY), ProbeInput("codes", QUALITY))
        )
        assert codes.shape == (COUNTS[split], QUALITY, 4, 4)
        for image, back, code in zip(pixels, decoded, codes, strict=True):
            assert (codec.codes(image.transpose(1, 2, 0), QUALITY) == code).all()
            data = codec.encode(image.transpose(1, 2, 0), QUALITY)
            assert (codec.decode(data) == back.transpose(1, 2, 0)).all()
    # a view is cut from the original and then encoded, not from the codes
    views = {source: store.views(source, "test") for source in (PIXELS, ProbeInput("codes", QUALITY))}
    first = store.whole(PIXELS, "test")[0].transpose(1, 2, 0)
    for number, view in enumerate(grid.draw(samples["test"].keys[0], 2)):
        cut = grid.cut(first, view)
        assert (views[PIXELS][0, number] == cut.transpose(2, 0, 1)).all()
        assert (views[ProbeInput("codes", QUALITY)][0, number] == codec.codes(cut, QUALITY)).all()


def test_the_table_is_what_the_parts_and_the_statistics_say(data_dir: Path, whole: Path) -> None:
    result = probe(settings_for(data_dir, whole))
    assert result.num_kept == len(findings(whole)) == 3 * (1 + 1 + 2 + 2)
    labels = np.arange(COUNTS["test"]) % 3
    rows = {(row.representation, row.input): row for row in result.rows}
    assert len(rows) == 12
    correct = {
        source: np.asarray(findings(whole)[f"{source}-flat.json"]["predictions"]) == labels
        for source in ("pixels", "codes-q4")
    }
    row = rows["flat", "codes"]
    assert row.accuracy == correct["codes-q4"].mean()
    assert (row.ci_low, row.ci_high) == tuple(proportion_interval(int(correct["codes-q4"].sum()), len(labels)))
    change = paired_difference(correct["pixels"], correct["codes-q4"])
    assert (row.difference, row.difference_low, row.p_value) == (change.difference, change.low, change.p_value)
    # brightness tells the classes apart, and the first bit is brightness
    assert rows["flat", "pixels"].accuracy > 0.8
    assert rows["pooled", "codes"].accuracy > 0.8
    assert row.rate_bpp == 8 * (5 + QUALITY * 16 / 8) / SIDE**2
    known = [row.p_value for row in result.rows if row.p_value is not None]
    assert [row.p_holm for row in result.rows if row.p_holm is not None] == pytest.approx(list(holm(known)))
    assert len(known) == 8
    twins = rows["twins", "codes"]
    assert (twins.num_seeds, twins.num_values) == (2, 128)
    assert rows["untrained", "codes"].train_loss is None
    assert twins.train_loss is not None


def test_the_files_hold_the_table_with_settings_and_versions(whole: Path) -> None:
    record = json.loads((whole / "probe.json").read_text())
    with (whole / "probe.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    table = pq.read_table(whole / "probe.parquet").to_pylist()
    assert len(lines) == len(table) == len(record["rows"]) == 12
    assert table == record["rows"]
    assert [float(line["accuracy"]) for line in lines] == [row["accuracy"] for row in table]
    assert record["settings"]["codec"] == "blocksigns"
    assert record["settings"]["codec-version"] == "blocksigns 1"
    assert record["versions"]["torch"]
    assert record["num_samples"] == COUNTS


class _InterruptedError(Exception):
    pass


class Interrupting(Listening):
    """Ends the work after some parts."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def say(self, message: str) -> None:
        super().say(message)
        if len(self.lines) == self._after:
            raise _InterruptedError


def test_interrupted_and_gone_on_is_the_same_as_never_interrupted(
    data_dir: Path, whole: Path, tmp_path: Path
) -> None:
    for after in (2, 7):
        with pytest.raises(_InterruptedError):
            probe(settings_for(data_dir, tmp_path), Interrupting(after))
    # the arrays may be removed at any time
    for path in (tmp_path / "inputs").iterdir():
        path.unlink()
    # what a kill leaves
    half = tmp_path / "parts" / f"half{TEMPORARY_SUFFIX}"
    half.touch()
    result = probe(settings_for(data_dir, tmp_path))
    assert not half.exists()
    assert result.num_kept == 1 + 6
    assert findings(tmp_path) == findings(whole)
    assert (tmp_path / "probe.csv").read_bytes() == (whole / "probe.csv").read_bytes()


def test_more_seeds_and_qualities_compute_only_what_is_new(data_dir: Path, tmp_path: Path) -> None:
    few = {"representations": ("pooled", "twins")}
    probe(settings_for(data_dir, tmp_path, seeds=(0,), **few))
    result = probe(settings_for(data_dir, tmp_path, seeds=(0, 2), qualities=(QUALITY, 8), **few))
    assert result.num_kept == 3 + 3
    assert len(findings(tmp_path)) == 5 + 10
    assert {row.num_seeds for row in result.rows if row.representation == "twins"} == {2}


def test_other_settings_into_the_same_folder_are_refused(data_dir: Path, whole: Path) -> None:
    with pytest.raises(SettingsError, match="epochs: 1 there, 2 asked for"):
        probe(settings_for(data_dir, whole, epochs=2))


def test_a_damaged_part_is_named(data_dir: Path, tmp_path: Path) -> None:
    asked = settings_for(data_dir, tmp_path, representations=("pooled",))
    probe(asked)
    path = tmp_path / "parts" / "codes-q4-pooled.json"
    for text in ("{", "{}", path.read_text().replace('"predictions": [', '"predictions": [0,')):
        path.write_text(text)
        with pytest.raises(DataError, match=r"codes-q4-pooled\.json: .*remove it and run again"):
            probe(asked)


def test_a_codec_whose_codes_are_none_is_told_so(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[Callable[..., Any], str]] = [
        (lambda self, image, quality: np.full((4, 4, 4), 2, np.uint8), "must be .* of 0 and 1"),
        (lambda self, image, quality: np.zeros((4, 5, 5), np.uint8), "its codes are 5 × 5, which does not"),
    ]
    for codes, message in cases:
        monkeypatch.setattr(blocksigns.BlockSigns, "codes", codes)
        with pytest.raises((DataError, SettingsError), match=message):
            code_cell(code_shapes(blocksigns.BlockSigns(), (4,), SIDE), SIDE)


def test_qualities_whose_codes_lie_on_different_grids_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"4 × 4 at quality 1, 2 × 2 at quality 2\): probe them one by one"):
        code_cell({1: (8, 4, 4), 2: (8, 2, 2)}, SIDE)


def test_more_values_than_the_flat_probe_holds_are_refused_before_any_work(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "MAX_NUMBERS", 150_000)
    with pytest.raises(SettingsError, match="56 images of up to 3072 values are 172032, more than 150000"):
        probe(settings_for(data_dir, tmp_path))
    assert not list(tmp_path.iterdir())


# -- the command ------------------------------------------------------------------------------------------------------


def run(data_dir: Path, output_dir: Path, *options: str) -> Result:
    usual = ["--codec", blocksigns.NAME, "--quality", "4", "--image-size", str(SIDE), "--device", "cpu"]
    arguments = [str(data_dir), *usual, "--output-dir", str(output_dir), *options]
    return CliRunner().invoke(command, arguments)


def test_the_command_prints_one_table(data_dir: Path, whole: Path) -> None:
    found = run(data_dir, whole, "--epochs", "1", "--seeds", "0,1")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[0].startswith("toy, blocksigns: 37 images to learn from, 8 to test, 3 classes")
    assert lines[1].split()[:4] == ["probe", "of", "input", "bpp"]
    assert len(lines) == 1 + 1 + 12 + 1 + 1
    assert lines[-1] == f"table: {whole / 'probe.csv'}"


def test_without_encoders_the_table_has_no_twins(data_dir: Path, tmp_path: Path) -> None:
    found = run(data_dir, tmp_path, "--representation", "pooled")
    assert found.exit_code == 0, found.output
    assert "diagonal" not in found.stdout


def test_the_learned_codec_of_the_catalogue_is_probed_by_its_command(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", counts={"train": 9, "val": 3, "test": 3})
    text = f"autoencoder:weights={KNOBS['autoencoder']['weights']}"
    options = ["--quality", "16,64", "--representation", "pooled", "--image-size", str(SIDE), "--device", "cpu"]
    arguments = [
        "codec",
        "probe",
        str(tmp_path / "toy"),
        "--codec",
        text,
        *options,
        "--output-dir",
        str(tmp_path / "out"),
    ]
    found = CliRunner().invoke(limla, arguments)
    assert found.exit_code == 0, found.output
    rows = json.loads((tmp_path / "out" / "probe.json").read_text())["rows"]
    codec = build_codec(text)
    assert isinstance(codec, BinaryCodes)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    bits = [len(codec.codes(image, quality)) for quality in (16, 64)]
    assert [(row["input"], row["quality"], row["num_values"]) for row in rows] == [
        ("pixels", None, 48),
        ("decoded", 16, 48),
        ("decoded", 64, 48),
        ("codes", 16, 16 * bits[0]),
        ("codes", 64, 16 * bits[1]),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--codec", "jpeg"), "codec 'jpeg' has no binary codes to probe: name a learned one"),
        (("--codec", "jpg"), "unknown codec 'jpg'"),
        (("--quality", "65"), "65 in '65' is out of range: choose 1 to 64"),
        (("--representation", "flat,deep"), "representation 'deep' is unknown: choose flat, pooled"),
        (("--representation", "flat,flat"), "a representation is named twice"),
        (("--seeds", "0,a"), "--seeds '0,a': write whole numbers"),
        (("--seeds", "1,1"), "a seed is named twice"),
        (("--seeds", "-1"), "seed -1 is out of range"),
        (("--epochs", "0"), "epochs 0 is out of range"),
        (("--image-size", "36"), "its codes are 5 × 5, which does not divide it; choose a multiple of 8"),
        (("--image-size", "24"), "choose a multiple of 8, and at least 32"),
        (("--device", "gpu"), "unknown device 'gpu'"),
    ],
)
def test_mistakes_are_one_line(data_dir: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    found = run(data_dir, tmp_path, *options)
    assert found.exit_code == 2
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "parts").exists()


def test_a_dataset_without_val_images_is_told_so(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", counts={"train": 5, "test": 3})
    found = run(tmp_path / "toy", tmp_path / "out")
    assert found.exit_code == 2
    assert "0 images of split val" in found.stderr
