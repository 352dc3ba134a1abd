"""Equal rates: the quality of a whole set, and of each image."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.codecs import build_codec
from limla.codecs.decoding import decode_image
from limla.errors import DataError, SettingsError
from limla.metrics import rate_bpp
from limla.reencoding import match_rates
from limla.results import read_encodings
from limla.study.parsing import study_from
from tests.catalogue import codec_text
from tests.variants import member, write_variant


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Originals of nine images of several sizes, in three shards."""
    folder = tmp_path_factory.mktemp("rates")
    shards = [[member(number, 60 + number, 80) for number in range(first, first + 3)] for first in (0, 3, 6)]
    write_variant(folder / "source", {"train": shards[:2], "test": shards[2:]})
    return folder


def mean_rates(folder: Path, codec: str) -> dict[int, float]:
    """The mean rate of the whole set at every quality, computed plainly."""
    from limla.manifest import read_manifest
    from limla.shard_reader import ShardReader

    plug = build_codec(codec)
    images = []
    for shard in read_manifest(folder / "source").shards:
        with ShardReader(folder / "source" / shard.name) as reader:
            images += [decode_image(bytes(sample.image), sample.extension) for sample in reader]
    assert len(images) == 9
    return {
        quality: sum(rate_bpp(len(plug.encode(image, quality)), *image.shape[:2]) for image in images)
        / len(images)
        for quality in plug.scale.from_worst()
    }


@pytest.mark.parametrize("codec", ["jpeg", "jpeg:subsampling=444"])
def test_the_set_gets_the_quality_whose_mean_rate_is_nearest(data_dir: Path, codec: str) -> None:
    means = mean_rates(data_dir, codec)
    targets = (means[4] * 1.001, (means[49] + means[60]) / 2, means[90])
    for found in match_rates(data_dir, codec, targets):
        best = min(abs(mean - found.target_bpp) for mean in means.values())
        assert abs(found.mean_bpp - found.target_bpp) == pytest.approx(best)
        assert found.mean_bpp == pytest.approx(means[found.quality])
        assert found.num_images == 9


def test_only_the_drawn_images_are_tried(data_dir: Path) -> None:
    few = match_rates(data_dir, "jpeg", [3.0], num_images=4, seed=1)[0]
    assert few.num_images == 4
    assert few == match_rates(data_dir, "jpeg", [3.0], num_images=4, seed=1, workers=1)[0]


def test_a_rate_that_cannot_be_is_refused(data_dir: Path) -> None:
    means = mean_rates(data_dir, "jpeg")
    for target in (means[1] / 2, means[100] * 1.1):
        with pytest.raises(SettingsError, match=f"choose {means[1]:.3g} to {means[100]:.3g}"):
            match_rates(data_dir, "jpeg", [target])
    for target in (0.0, -1.0, 25.0, float("nan")):
        with pytest.raises(SettingsError, match=r"bits per pixel is out of range: choose 0\.001 to 24"):
            match_rates(data_dir, "jpeg", [target])


def test_damaged_originals_are_named(data_dir: Path, tmp_path: Path) -> None:
    from shutil import copytree

    folder = copytree(data_dir, tmp_path / "damaged")
    tar = next((folder / "source").glob("test-*.tar"))
    data = bytearray(tar.read_bytes())
    data[700] ^= 255
    tar.write_bytes(bytes(data))
    with pytest.raises(DataError, match=tar.name):
        match_rates(folder, "jpeg", [3.0])


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(limla, ["reencode", *arguments])
    return result.exit_code, result.output


def test_reencode_takes_rates(data_dir: Path, tmp_path: Path) -> None:
    from shutil import copytree

    folder = copytree(data_dir, tmp_path / "set")
    code, output = invoke(str(folder), "--bpp", "2,3")
    assert code == 0, output
    found = match_rates(folder, "jpeg", [2.0, 3.0])
    for one in found:
        rows = read_encodings(folder, [f"jpeg-q{one.quality}"]).to_pylist()
        assert sum(row["rate_bpp"] for row in rows) / len(rows) == pytest.approx(one.mean_bpp)
        assert f"{one.target_bpp:g} bits per pixel: jpeg at {one.quality} takes {one.mean_bpp:.3f}" in output

    code, output = invoke(str(folder), "--bpp", "3.5", "--match", "image", "--codec", "jpeg:subsampling=444")
    assert code == 0, output
    rows = read_encodings(folder, ["jpeg-bpp-q3500"]).to_pylist()
    assert {row["codec"] for row in rows} == {"jpeg-bpp"}
    assert all(abs(row["rate_bpp"] - 3.5) < 0.2 for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bpp", "1", "--quality", "5"], "--quality and --bpp are two ways to say how small"),
        (["--match", "set"], "--match is given, but no --bpp"),
        (["--bpp", "wide"], "'wide' is not a number"),
        (["--codec", "webp"], "--quality is missing: webp takes"),
        (["--codec", "jpeg-bpp", "--bpp", "3"], "give --match image, or --codec jpeg"),
    ],
)
def test_what_does_not_go_together_is_one_line(data_dir: Path, options: list[str], message: str) -> None:
    code, output = invoke(str(data_dir), *options)
    assert code == 2
    assert message in " ".join(output.split())
    assert "Traceback" not in output


def test_a_study_takes_rates() -> None:
    study = study_from(
        {"data_dir": "x", "output_dir": "y", "codec": "jpeg:subsampling=444", "bpp": [0.25, 1]}, "options"
    )
    assert study.codecs[0].variants == (("jpeg-bpp", 250), ("jpeg-bpp", 1000))
    assert study.codecs[0].text == "jpeg-bpp:subsampling=444"
    with pytest.raises(SettingsError, match="qualities and bpp are two ways"):
        study_from({"data_dir": "x", "output_dir": "y", "qualities": [5], "bpp": [1]}, "options")
    with pytest.raises(SettingsError, match=r"is out of range: choose 0\.001 to 24"):
        study_from({"data_dir": "x", "output_dir": "y", "bpp": [25]}, "options")
    for rate in (float("inf"), float("nan"), -1.0):
        with pytest.raises(SettingsError, match=r"bits per pixel is out of range: choose 0\.001 to 24"):
            study_from({"data_dir": "x", "output_dir": "y", "bpp": [rate]}, "options")


def test_a_learned_codec_is_matched_on_what_it_was_not_trained_on(data_dir: Path) -> None:
    (found,) = match_rates(data_dir, codec_text("autoencoder"), [1.0])
    assert found.num_images == 3  # the test split alone


def test_the_default_qualities_are_for_codecs_that_have_them() -> None:
    with pytest.raises(
        SettingsError, match="are not those of codec 'hevc': name some as qualities, QP 0 to 51"
    ):
        study_from({"data_dir": "x", "output_dir": "y", "codec": "hevc"}, "options")
    assert (
        study_from({"data_dir": "x", "output_dir": "y", "codec": "webp"}, "options").codecs[0].qualities[0] == 1
    )
