"""`limla predict`: what a model says of photos, and what compression changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limla.cli import LimlaCommand
from limla.cli.paths import LocalPath

if TYPE_CHECKING:
    from limla.prediction import Answer
    from limla.types import Image

_FILE = LocalPath()


@click.command("predict", short_help="What a model says of a photo, and at a quality.", cls=LimlaCommand)
@click.option("--checkpoint", required=True, type=_FILE, help="A best.pt of limla train.")
@click.argument("photos", nargs=-1, required=True, type=_FILE)
@click.option("--quality", help="Also ask at these qualities: 10, or 1,10,50-90:10.")
@click.option("--codec", default="jpeg", show_default=True, help="Codec of the qualities.")
@click.option("--model", help="For a checkpoint of your own model: package.module:function.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes to list.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda or cuda:1.")
def predict(
    checkpoint: Path,
    photos: tuple[Path, ...],
    quality: str | None,
    codec: str,
    model: str | None,
    top: int,
    device: str,
) -> None:
    """Ask a trained model about PHOTOS: the most probable classes, and what changes at a quality."""
    from limla.cli.options import parse_qualities
    from limla.codecs import codec_scale
    from limla.models.checkpoint import load_checkpoint
    from limla.models.device import choose_device
    from limla.prediction import predict as ask

    scale = codec_scale(codec)
    qualities = [] if quality is None else [q for q in parse_qualities(quality, scale=scale) if q is not None]
    loaded = load_checkpoint(checkpoint, choose_device(device), own_model=model)
    for number, photo in enumerate(photos):
        image, num_bytes = _read(photo)
        answers = ask(loaded, image, num_bytes, qualities, codec, top)
        if number:
            click.echo()
        click.echo(f"{photo}: {image.shape[1]}x{image.shape[0]} pixels")
        for answer in answers:
            _show(answer, answers[0])


def _read(photo: Path) -> tuple[Image, int]:
    """The photo's upright sRGB pixels, by the policies that packing applies, and the size of its file."""
    from limla.codecs.decoding import decode_image
    from limla.errors import DataError
    from limla.packing.settings import PackSettings
    from limla.pictures.policies import read_picture

    if photo.is_dir():
        raise DataError(f"{photo}: a folder; name photos, e.g. {photo}/*.jpg")
    data = photo.read_bytes()
    try:
        picture = read_picture(data, PackSettings().max_pixels)
        return decode_image(picture.data, picture.extension), len(data)
    except DataError as error:
        raise DataError(f"{photo}: {error}") from error


def _show(answer: Answer, original: Answer) -> None:
    if answer is original:
        title = f"as it is: {answer.num_bytes} bytes, {answer.rate_bpp:.2f} bits per pixel"
    else:
        same = answer.prediction == original.prediction
        change = "same class" if same else f"flipped from {original.prediction} to {answer.prediction}"
        title = (
            f"{answer.codec} quality {answer.quality}: {answer.num_bytes} bytes, {answer.rate_bpp:.2f} bits per "
            f"pixel, PSNR {answer.psnr_db:.1f} dB: {change}"
        )
    click.echo(f"  {title}")
    before = dict(original.top)
    for name, probability in answer.top:
        change = f"  ({probability - before[name]:+.3f})" if answer is not original and name in before else ""
        click.echo(f"    {probability:6.3f}  {name}{change}")
