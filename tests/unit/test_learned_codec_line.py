"""A learned codec through the whole line: its weights travel with its shards, and nothing reads them without."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from limla.analysis.gallery import encoded_images
from limla.codecs import build_codec, codec_label
from limla.codecs.base import WEIGHTS
from limla.codecs.decoding import decode_image, learned_codec
from limla.defences.codec import CodecDefence
from limla.errors import DataError, SettingsError
from limla.evaluation import EvaluateSettings
from limla.loaders.base import LoaderSettings, Reencoding, open_loader
from limla.packing.verification import verify_variant
from limla.plans import DefencePlan, parse_defences
from limla.reencoding import ReencodeSettings, reencode
from limla.training.settings import TrainSettings
from limla.types import Preprocessing
from tests.catalogue import KNOBS
from tests.conftest import natural_like
from tests.variants import member, write_variant

TEXT = f"autoencoder:weights={KNOBS['autoencoder']['weights']}"
SETTINGS = LoaderSettings(preprocessing=Preprocessing(image_size=16), batch_size=2)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    write_variant(folder / "source", {"test": [[member(number, 40 + number, 50) for number in range(3)]]})
    result = reencode(folder, ReencodeSettings(codec=TEXT, qualities=(8, 40), measure="all"))
    assert result.made == ("autoencoder-q8", "autoencoder-q40")
    return folder


def test_its_weights_lie_beside_its_shards(data_dir: Path) -> None:
    for variant in ("autoencoder-q8", "autoencoder-q40"):
        assert (data_dir / variant / WEIGHTS).read_bytes() == Path(KNOBS["autoencoder"]["weights"]).read_bytes()
    assert learned_codec("jpeg", data_dir / "source") is None


@pytest.mark.parametrize("name", ["auto", "cpu", "webdataset"])
def test_loaders_read_it_as_the_codec_does(data_dir: Path, name: str) -> None:
    loader = open_loader(name, [data_dir / "autoencoder-q40"], "test", SETTINGS)
    keys = [key for batch in loader for key in batch.keys]
    loader.close()
    assert len(keys) == 3
    codec = build_codec(TEXT)
    images = encoded_images(data_dir / "autoencoder-q40", "test", keys)
    for image in images.values():
        assert np.array_equal(image.pixels(), codec.decode(image.data))
        with pytest.raises(
            DataError, match="learned codec 'autoencoder', which is read with its weights alone"
        ):
            decode_image(image.data, image.extension)


def test_mixed_with_the_originals(data_dir: Path) -> None:
    loader = open_loader("cpu", [data_dir / "source", data_dir / "autoencoder-q8"], "test", SETTINGS)
    assert sum(len(batch.keys) for batch in loader) == 6
    loader.close()


def test_dali_refuses_it_before_any_work(data_dir: Path) -> None:
    pytest.importorskip("nvidia.dali")
    with pytest.raises(SettingsError, match="cpu"):
        open_loader("dali", [data_dir / "autoencoder-q8"], "test", SETTINGS)


def test_drawn_qualities_and_defences_take_its_weights(data_dir: Path) -> None:
    settings = LoaderSettings(SETTINGS.preprocessing, 2, reencoding=Reencoding(TEXT, (8, 40)))
    loader = open_loader("cpu", [data_dir / "source"], "test", settings)
    assert sum(len(batch.keys) for batch in loader) == 3
    loader.close()

    (plan,) = parse_defences(f"{TEXT}:40", ("static",))
    assert (plan.codec, plan.qualities) == (TEXT, (40,))
    import torch

    image = natural_like(32, 32)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    defended = CodecDefence(plan).apply(batch, seed=0)
    codec = build_codec(TEXT)
    expected = codec.decode(codec.encode(image, 40))
    assert np.array_equal((defended.images[0].permute(1, 2, 0) * 255).round().byte().numpy(), expected)
    with pytest.raises(SettingsError, match="choose bpda"):
        DefencePlan(TEXT, (40,), ("differentiable",))


def test_rows_name_the_weights_by_their_contents(tmp_path: Path) -> None:
    label = codec_label(TEXT)
    assert DefencePlan(TEXT, (8, 40)).label == f"{label}:8+40"
    assert label == f"autoencoder:weights={build_codec(TEXT).settings()['weights']}"
    copy = tmp_path / "elsewhere.bin"
    copy.write_bytes(Path(KNOBS["autoencoder"]["weights"]).read_bytes())
    assert codec_label(f"autoencoder:weights={copy}") == label


def test_lost_weights_are_said_and_put_back(data_dir: Path, tmp_path: Path) -> None:
    folder = copytree(data_dir, tmp_path / "copy")
    lost = folder / "autoencoder-q8" / WEIGHTS
    lost.unlink()
    with pytest.raises(DataError, match=f"{WEIGHTS}: missing, and without its weights codec 'autoencoder'"):
        open_loader("cpu", [folder / "autoencoder-q8"], "test", SETTINGS)
    result = reencode(folder, ReencodeSettings(codec=TEXT, qualities=(8,), measure="all"))
    assert result.made == ("autoencoder-q8",)
    assert lost.read_bytes() == (data_dir / "autoencoder-q8" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("damage", ["flipped", "lost"])
def test_verify_and_reencode_see_damaged_weights(data_dir: Path, tmp_path: Path, damage: str) -> None:
    folder = copytree(data_dir, tmp_path / "copy")
    path = folder / "autoencoder-q8" / WEIGHTS
    whole = path.read_bytes()
    assert verify_variant(path.parent).problems == ()
    if damage == "flipped":
        path.write_bytes(bytes([*whole[:600], whole[600] ^ 1, *whole[601:]]))
        assert verify_variant(path.parent, contents=False).problems == ()
        said = f"{WEIGHTS}: altered since it was made .*; run limla reencode again"
    else:
        path.unlink()
        assert len(verify_variant(path.parent, contents=False).problems) == 1
        said = f"{WEIGHTS}: missing, .*; run limla reencode again"
    (problem,) = verify_variant(path.parent).problems
    assert re.search(said, problem)
    with pytest.raises(DataError, match=f"{WEIGHTS}: .*; run limla reencode again"):
        open_loader("cpu", [path.parent], "test", SETTINGS)
    again = reencode(folder, ReencodeSettings(codec=TEXT, qualities=(8, 40), measure="all"))
    assert again.made == ("autoencoder-q8",)
    assert path.read_bytes() == whole
    assert verify_variant(path.parent).problems == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jpeg:subsampling=999", "subsampling"),
        ("jpeg:foo=1", "has no setting 'foo'; known: subsampling"),
        ("autoencoder:weights=/nope", "no file of weights at /nope"),
        ("autoencoder", "limla codec train"),
    ],
)
def test_a_codec_that_cannot_be_built_is_refused_when_it_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_defences(f"{text}:5")
    with pytest.raises(SettingsError, match=said):
        Reencoding(text, (5,))
    with pytest.raises(SettingsError, match=said):
        TrainSettings(tmp_path, tmp_path / "out", codec=text, random_qualities=(5, 9))


def test_a_defence_of_two_names_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.bin"
    copy.write_bytes(Path(KNOBS["autoencoder"]["weights"]).read_bytes())
    for text in ("jpeg:50,jpeg:subsampling=420:50", f"{TEXT}:40,autoencoder:weights={copy}:40"):
        defences = tuple(plan for part in text.split(",") for plan in parse_defences(part))
        with pytest.raises(SettingsError, match="a defence is named twice"):
            EvaluateSettings(tmp_path, tmp_path / "results", checkpoints=(copy,), defences=defences)


def test_without_weights_it_says_how_to_get_them() -> None:
    with pytest.raises(SettingsError, match="limla codec train"):
        ReencodeSettings(codec="autoencoder", qualities=(8,))
