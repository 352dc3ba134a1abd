"""The small dataset 'animals', a checkpoint for it, and evaluations of it, for the suites of evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limla.codecs.jpeg import JpegCodec
from limla.evaluation import EvaluateSettings
from limla.manifest import Manifest, variant_name
from limla.models.base import SOURCE_DATA_IDS, ModelInfo, build_model
from limla.models.checkpoint import save_checkpoint
from limla.shards import open_shard, shard_name
from limla.types import Preprocessing
from tests.conftest import natural_like
from tests.toy import source_ids

CLASSES = ("cat", "dog", "emu")
SIDE = 24
PREPROCESSING = Preprocessing(image_size=SIDE, resize="none")
NUM_TEST = 14


def write_variant(data_dir: Path, quality: int | None, class_names: tuple[str, ...] = CLASSES) -> None:
    """A small variant of two test shards and one training shard."""
    codec = JpegCodec()
    name = variant_name("source" if quality is None else "jpeg", quality)
    entries = []
    for split, number, keys in (
        ("train", 0, range(100, 103)),
        ("test", 0, range(8)),
        ("test", 1, range(8, NUM_TEST)),
    ):
        path = data_dir / name / shard_name(split, number)
        with open_shard(path) as writer:
            for index in keys:
                label = index % 3
                key = f"{split}/{class_names[label]}/photo{index:03d}"
                image = codec.encode(natural_like(SIDE, SIDE, seed=index), quality or 95)
                about = json.dumps({"key": key, "height": SIDE, "width": SIDE}).encode()
                writer.add(key, {"jpg": image, "cls": str(label).encode(), "json": about})
        entries.append(writer.entry(path.name, split))
    codec_name = "source" if quality is None else "jpeg"
    settings = {} if quality is None else {"source": source_ids(data_dir)}
    manifest = Manifest(data_dir.name, codec_name, quality, class_names, tuple(entries), settings, {})
    manifest.write(data_dir / name)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variants source, jpeg-q10 and jpeg-q50. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "animals"
    for quality in (None, 10, 50):
        write_variant(folder, quality)
    return folder


def write_checkpoint(path: Path, seed: int = 0, **changes: Any) -> Path:
    """A `compact` network for `CLASSES`, made up; `changes` are fields of its `ModelInfo`."""
    torch.manual_seed(seed)
    model = build_model("compact", 3)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):  # logits that differ between images
                module.weight.mul_(5)
    info = ModelInfo("compact", 3, CLASSES, PREPROCESSING, train_codec="jpeg", train_quality="10", seed=seed)
    save_checkpoint(path, model.eval(), replace(info, **changes))
    return path


@pytest.fixture(scope="module")
def checkpoint(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the data of `data_dir`, it says."""
    path = tmp_path_factory.mktemp("model") / "best.pt"
    return write_checkpoint(path, dataset="animals", extra={SOURCE_DATA_IDS: source_ids(data_dir)})


def settings_for(data_dir: Path, checkpoint: Path, results_dir: Path, **changes: Any) -> EvaluateSettings:
    """Source and jpeg-q10, FGSM and PGD, batches of 5 on the CPU; `changes` are settings."""
    usual = EvaluateSettings(
        data_dir=data_dir,
        results_dir=results_dir,
        checkpoints=(checkpoint,),
        qualities=(None, 10),
        attacks=("fgsm", "pgd"),
        steps=3,
        loader="cpu",
        batch_size=5,
        device="cpu",
    )
    return replace(usual, **changes)


def files_of(results_dir: Path) -> dict[str, bytes]:
    """Name → bytes of the rows."""
    return {path.name: path.read_bytes() for path in (results_dir / "predictions").iterdir()}
