"""`limla predict`: the numbers are the model's, the bytes the codec's, and mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image as PillowImage
from torch import Tensor, nn

from limla.cli import limla
from limla.codecs.jpeg import JpegCodec
from limla.errors import SettingsError
from limla.models.base import LoadedModel, ModelInfo, build_model
from limla.models.checkpoint import save_checkpoint
from limla.prediction import predict
from limla.types import Preprocessing
from tests.conftest import natural_like

NAMES = ("rose", "tulip", "daisy")


class _Contrast(nn.Module):
    """Says "rose" of detailed images and "daisy" of flat ones: compression flips it."""

    def forward(self, images: Tensor) -> Tensor:
        detail = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
        return torch.stack([detail, torch.full_like(detail, -1.0), 0.08 - detail], dim=1) * 100


def contrast() -> LoadedModel:
    return LoadedModel(_Contrast(), ModelInfo("own:contrast", 3, NAMES, Preprocessing(32, "none")), "0" * 16)


def noisy() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, (40, 48, 3), dtype=np.uint8)


def test_a_flip_and_what_it_costs() -> None:
    image = noisy()
    source, fine, coarse = predict(contrast(), image, 1000, [100, 1])
    data = JpegCodec().encode(image, 1)
    assert (coarse.num_bytes, coarse.rate_bpp) == (len(data), 8 * len(data) / (40 * 48))
    assert (source.num_bytes, source.rate_bpp, source.psnr_db) == (1000, 8000 / 1920, float("inf"))
    assert (source.prediction, fine.prediction, coarse.prediction) == ("rose", "rose", "daisy")
    assert coarse.psnr_db < fine.psnr_db < source.psnr_db
    for answer in (source, fine, coarse):
        probabilities = [probability for _, probability in answer.top]
        assert sum(probabilities) == pytest.approx(1)
        assert probabilities == sorted(probabilities, reverse=True)
        assert {name for name, _ in answer.top} == set(NAMES), "three classes, so fewer than five"


def test_the_probabilities_are_those_of_the_pixels_at_that_quality() -> None:
    image = noisy()
    _, answer = predict(contrast(), image, 1000, [30], num_top=2)
    decoded = JpegCodec().decode(JpegCodec().encode(image, 30))
    planes = torch.from_numpy(decoded.transpose(2, 0, 1).copy()).float().div(255)
    expected, indices = contrast().model(planes[None])[0].softmax(0).topk(2)
    assert [name for name, _ in answer.top] == [NAMES[index] for index in indices.tolist()]
    assert [value for _, value in answer.top] == pytest.approx(expected.tolist(), rel=1e-6)


def test_a_quality_out_of_range_is_refused() -> None:
    with pytest.raises(SettingsError, match="quality 101"):
        predict(contrast(), noisy(), 1000, [101])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.pt"
    torch.manual_seed(0)
    save_checkpoint(path, build_model("compact", 3), ModelInfo("compact", 3, NAMES, Preprocessing(32)))
    return path


def type_in(*words: object) -> Result:
    return CliRunner().invoke(limla, ["predict", *map(str, words)])


def test_the_command_shows_each_photo_upright(checkpoint: Path, tmp_path: Path) -> None:
    picture = PillowImage.fromarray(natural_like(60, 90, 1))
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.convert("L").save(tmp_path / "gray.png")
    done = type_in(
        "--checkpoint", checkpoint, tmp_path / "turned.jpg", tmp_path / "gray.png", "--quality", "10,90"
    )
    assert done.exit_code == 0, done.output
    assert "turned.jpg: 60x90 pixels" in done.output
    assert "gray.png: 90x60 pixels" in done.output
    assert f"as it is: {(tmp_path / 'turned.jpg').stat().st_size} bytes" in done.output
    assert done.output.count("jpeg quality 10:") == done.output.count("jpeg quality 90:") == 2
    assert done.output.count("rose") >= 6


def test_mistakes_are_one_line(checkpoint: Path, tmp_path: Path) -> None:
    PillowImage.fromarray(natural_like(60, 90, 1)).save(tmp_path / "photo.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no picture")
    for photo, message in (
        ("cut.jpg", "cut.jpg:"),
        ("text.jpg", "text.jpg:"),
        ("absent.jpg", "absent.jpg: no such file"),
        (".", "a folder"),
    ):
        done = type_in("--checkpoint", checkpoint, tmp_path / photo)
        assert (done.exit_code, message in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    done = type_in("--checkpoint", checkpoint, tmp_path / "photo.jpg", "--quality", "0")
    assert (done.exit_code, "out of range" in done.stderr) == (2, True)
    assert type_in("--checkpoint", tmp_path / "photo.jpg", tmp_path / "photo.jpg").exit_code == 2
