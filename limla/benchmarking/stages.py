"""What is measured of limla itself, and the limits it is held against; see `limla.benchmarking.passes` for the form."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from limla.benchmarking.checks import PictureFacts
from limla.benchmarking.data import SPLIT
from limla.benchmarking.passes import Facts, Steps
from limla.manifest import SOURCE, read_manifest, variant_name

ATTACKS = {"clean": "none", "fgsm": "fgsm", "pgd": "pgd"}
"""Part of the evaluation benchmark → limla's name of the attack."""
EPS, STEPS, ALPHA, SEED = 8 / 255, 10, 2 / 255, 0
_DECODED_AT_ONCE = 8


def encoded_images(data_dir: Path) -> Iterator[tuple[bytes, str]]:
    """Every (bytes, extension) of the source shards, in order."""
    from limla.shard_reader import ShardReader

    for shard in read_manifest(data_dir / SOURCE).shards:
        with ShardReader(data_dir / SOURCE / shard.name) as reader:
            for sample in reader:
                yield bytes(sample.image), sample.extension


def _decode(data: bytes, extension: str) -> Any:
    """The (H, W, 3) uint8 pixels: JPEG by simplejpeg alone, other formats by the decoder that limla uses."""
    import simplejpeg

    from limla.codecs.decoding import decode_image

    if extension != "jpg":
        return decode_image(data, extension)
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)


def reencode_limit(
    data_dir: str, qualities: Sequence[int], threads: int, check: bool, shared: bool = False
) -> Steps:
    """simplejpeg alone: from memory, one decode and all encodes per image, the results thrown away.

    It converts colours for each quality, as who calls it with RGB gets it; `shared`: once, through limla's codec.
    """
    import threading

    import simplejpeg

    from limla.codecs.jpeg import JpegCodec

    images = list(encoded_images(Path(data_dir)))
    sizes: list[dict[int, int]] = [dict.fromkeys(qualities, 0) for _ in range(threads)]

    codec = JpegCodec()

    def encoded(image: Any) -> Iterator[bytes]:
        if shared:
            yield from codec.encode_each(image, qualities)
            return
        for quality in qualities:
            yield simplejpeg.encode_jpeg(image, quality, "RGB", colorsubsampling="420", fastdct=False)

    def loop(number: int) -> None:
        for data, extension in images[number::threads]:
            for quality, one in zip(qualities, encoded(_decode(data, extension)), strict=True):
                sizes[number][quality] += len(one)

    if shared:  # finding the compiled kernel is no encoding
        codec.encode_each(_decode(*images[0]), qualities)
    yield 0
    workers = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    yield len(images)
    return {"files": {str(q): [len(images), sum(one[q] for one in sizes)] for q in qualities}} if check else {}


def limla_reencode(data_dir: str, qualities: Sequence[int], threads: int, check: bool) -> Steps:
    """The whole stage: SHA-256 of each source shard, tars, indexes, rows, fsync; no PSNR."""
    from limla.reencoding import ReencodeSettings, reencode

    folders = {quality: Path(data_dir) / variant_name("jpeg", quality) for quality in qualities}
    for folder in folders.values():
        if folder.exists():
            shutil.rmtree(folder)
    settings = ReencodeSettings(qualities=tuple(qualities), measure="none", workers=threads)
    yield 0
    result = reencode(Path(data_dir), settings)
    yield result.num_images
    if not check:
        return {}
    return {
        "files": {
            str(quality): [summary.num_images, summary.num_bytes]
            for quality, summary in zip(sorted(qualities), result.variants, strict=True)
        }
    }


def decode_limit(data_dir: str, threads: int, check: bool) -> Steps:
    """Every image decoded from memory, nothing else."""
    import simplejpeg  # noqa: F401 - imports are not decoding

    del check
    images = list(encoded_images(Path(data_dir)))

    def decode(first: int) -> int:
        some = images[first : first + _DECODED_AT_ONCE]
        for data, extension in some:
            _decode(data, extension)
        return len(some)

    yield 0
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(decode, range(0, len(images), _DECODED_AT_ONCE))
    return {}


def limla_loader(
    data_dir: str,
    loader: str,
    threads: int,
    batch_size: int,
    check: bool,
    device: str = "cpu",
    image_size: int = 224,
    split: str = SPLIT,
) -> Steps:
    """One pass of a limla loader over a split, sizes of the shards checked and not their SHA-256."""
    import torch  # noqa: F401 - imports are not loading

    from limla.loaders.base import LoaderSettings, open_loader
    from limla.registry import LOADERS
    from limla.types import Preprocessing

    LOADERS.load(loader)
    settings = LoaderSettings(
        preprocessing=Preprocessing(image_size=image_size),
        batch_size=batch_size,
        num_threads=threads,
        device=device,
        verify_contents=False,
    )
    facts = PictureFacts()
    yield 0
    with closing(open_loader(loader, [Path(data_dir) / SOURCE], split, settings)) as opened:
        for batch in opened:
            if check:
                facts.add(batch.images.cpu().numpy())
            yield len(batch.keys)
    return facts.facts() if check else {}


def make_checkpoint(path: Path, data_dir: Path, model: str, image_size: int, split: str = SPLIT) -> None:
    """Write a limla checkpoint of an untrained model whose batch norms have seen some of the data's images.

    Without that they would be near-identities, which are no fair load for fusing.
    """
    import torch

    from limla.models.base import ModelInfo, build_model, canonical_name
    from limla.models.checkpoint import save_checkpoint
    from limla.types import Preprocessing

    names = read_manifest(data_dir / SOURCE).class_names
    torch.manual_seed(SEED)
    built = build_model(model, len(names), image_size=image_size).train()
    images = _first_images(data_dir, 16, image_size, split)[0]
    with torch.no_grad():
        for _ in range(10):
            built(images)
    info = ModelInfo(
        canonical_name(model), len(names), names, Preprocessing(image_size=image_size), dataset=data_dir.name
    )
    save_checkpoint(path, built.eval(), info)


def _first_images(data_dir: Path, number: int, image_size: int, split: str = SPLIT) -> tuple[Any, Any]:
    """The first `number` images and labels of a split, as the `cpu` loader gives them."""
    from limla.loaders.base import LoaderSettings, open_loader
    from limla.types import Preprocessing

    settings = LoaderSettings(Preprocessing(image_size=image_size), batch_size=number, verify_contents=False)
    with closing(open_loader("cpu", [data_dir / SOURCE], split, settings)) as loader:
        batch = next(iter(loader))
    return batch.images, batch.labels


def attack_with_limla(
    data_dir: str, checkpoint: str, batches: dict[str, int], batch_size: int, place: str, check: bool
) -> Steps:
    """As `limla evaluate` computes: activations kept in the process, the fused copy, limla's attacks.

    The copy is made before the clock starts, once for a checkpoint; facts: `seconds_preparing` it.
    """
    import time

    import torch

    from limla.attacks.base import build_attack
    from limla.models.checkpoint import load_checkpoint
    from limla.models.memory import keep_large_activations
    from limla.models.victim import prepare_victim

    keep_large_activations()
    loaded = load_checkpoint(Path(checkpoint))
    images, labels = _first_images(Path(data_dir), batch_size, loaded.info.preprocessing.image_size)
    started = time.perf_counter()
    victim = prepare_victim(loaded.model, "cpu", images[:2])
    facts: Facts = {"seconds_preparing": time.perf_counter() - started}
    parameters: dict[str, dict[str, Any]] = {"pgd": {"steps": STEPS, "alpha": ALPHA}}
    saved: dict[str, str] = {}
    attacked = predictions = images
    yield 0
    for part, number in batches.items():
        name = ATTACKS[part]
        attack = None if name == "none" else build_attack(name, {"eps": EPS, **parameters.get(name, {})})
        for _ in range(number):
            attacked = images if attack is None else attack.run(victim, images, labels, seed=SEED)
            with torch.no_grad():
                predictions = victim(attacked).argmax(1)
            yield part, len(predictions)
        if check:
            saved[part] = _save(Path(place) / f"limla-{part}.npz", attacked, predictions)
    return {**facts, "saved": saved} if check else facts


def attack_with_torchattacks(
    data_dir: str, checkpoint: str, batches: dict[str, int], batch_size: int, place: str, check: bool
) -> Steps:
    """torchattacks as its README shows it, on the eager model in torch's default memory layout."""
    import torch
    import torchattacks

    from limla.models.checkpoint import load_checkpoint

    loaded = load_checkpoint(Path(checkpoint))
    model = loaded.model.eval()
    images, labels = _first_images(Path(data_dir), batch_size, loaded.info.preprocessing.image_size)
    attacks = {
        "fgsm": torchattacks.FGSM(model, eps=EPS),
        "pgd": torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS),
    }
    saved: dict[str, str] = {}
    attacked = predictions = images
    yield 0
    for part, number in batches.items():
        for _ in range(number):
            torch.manual_seed(SEED)
            attacked = images if part == "clean" else attacks[part](images, labels)
            with torch.no_grad():
                predictions = model(attacked).argmax(1)
            yield part, len(predictions)
        if check:
            saved[part] = _save(Path(place) / f"torchattacks-{part}.npz", attacked, predictions)
    return {"saved": saved} if check else {}


def _save(path: Path, images: Any, predictions: Any) -> str:
    import numpy as np

    np.savez(path, images=images.detach().cpu().numpy(), predictions=predictions.cpu().numpy())
    return str(path)


def limla_evaluate(
    data_dir: str, checkpoint: str, attacks: Sequence[str], batch_size: int, place: str, check: bool
) -> Steps:
    """The command line itself, from its start to its end; images are those of the split, whatever the attacks.

    Facts: seconds `waiting` for the loader's batches and `model` (attacks and model), as limla records them.
    """
    del check
    output = Path(place) / "results"
    if output.exists():
        shutil.rmtree(output)
    command = [sys.executable, "-m", "limla", "evaluate", "--checkpoint", checkpoint, "--data-dir", data_dir]
    command += ["--quality", "source", "--attack", ",".join(attacks), "--batch-size", str(batch_size)]
    command += ["--output-dir", str(output)]
    yield 0
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    facts = _split_of(output / "timings.jsonl")
    yield facts.pop("num_samples")
    return facts


def _split_of(timings: Path) -> Facts:
    cells = [json.loads(line) for line in timings.read_text(encoding="utf-8").splitlines()]
    return {
        "num_samples": cells[0]["num_samples"],
        # the cells of one variant share a pass, and each says how long that pass waited
        "waiting": max(cell["seconds_loading"] for cell in cells),
        "model": sum(cell["seconds_computing"] for cell in cells),
        "model_by_attack": {cell["attack"]: cell["seconds_computing"] for cell in cells},
    }
