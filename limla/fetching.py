"""Public datasets as class folders, through `torchvision.datasets`, for people with a network.

Files that the dataset ships as images are copied byte for byte, so that their JPEG history stays what it is;
datasets that ship arrays (CIFAR) are written as PNG.
"""

from __future__ import annotations

import io
import re
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from limla.errors import DataError, SettingsError, UnknownNameError
from limla.files import write_bytes
from limla.progress import SILENT, Progress


@dataclass(frozen=True)
class _Source:
    """A torchvision dataset class and its official splits: our name → constructor arguments."""

    class_name: str
    splits: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})


def _splits(**official: str) -> dict[str, dict[str, Any]]:
    return {ours: {"split": theirs} for ours, theirs in official.items()}


_CIFAR_SPLITS = {"train": {"train": True}, "test": {"train": False}}
DATASETS: dict[str, _Source] = {
    "imagenette": _Source("Imagenette", _splits(train="train", val="val")),
    "flowers102": _Source("Flowers102", _splits(train="train", val="val", test="test")),
    "cifar10": _Source("CIFAR10", _CIFAR_SPLITS),
    "cifar100": _Source("CIFAR100", _CIFAR_SPLITS),
    "eurosat": _Source("EuroSAT"),
    "oxfordiiitpet": _Source("OxfordIIITPet", _splits(train="trainval", test="test")),
    "food101": _Source("Food101", _splits(train="train", test="test")),
    "dtd": _Source("DTD", _splits(train="train", val="val", test="test")),
    "fgvcaircraft": _Source("FGVCAircraft", _splits(train="train", val="val", test="test")),
}
"""Dataset name (lower case) → where it comes from."""

# where torchvision's classes keep their image files; it has no public name for them
_FILE_LISTS = ("_samples", "samples", "_image_files", "_images")


def fetch(name: str, folder: Path, merge: bool = False, progress: Progress = SILENT) -> int:
    """Download dataset `name` and write it as `folder/[split/]class/file`; returns the number of images.

    Args:
        name: of `DATASETS`, upper or lower case.
        folder: new, or of an interrupted fetch of the same dataset (files that are there are kept).
        merge: put the official splits together into plain class folders.

    Raises `UnknownNameError` for another name and `DataError` when the download fails.
    """
    import torchvision.datasets

    source = DATASETS.get(name.lower())
    if source is None:
        raise UnknownNameError(f"unknown dataset '{name}'; known: {', '.join(DATASETS)}")
    dataset_class = getattr(torchvision.datasets, source.class_name)
    cache = folder.parent / f".{folder.name}-download"
    total = 0
    for split, arguments in source.splits.items():
        progress.say(
            f"fetching {source.class_name} {split or 'whole'}: the first time this downloads it to {cache}"
        )
        try:
            dataset = dataset_class(root=str(cache), download=True, **arguments)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise DataError(
                f"{source.class_name} could not be downloaded ({error}): this needs a network; or fetch it elsewhere "
                f"and copy the folder here"
            ) from error
        target = folder if merge or not split else folder / split
        prefix = f"{split}-" if merge and split else ""
        with progress.stage(f"writing {split or source.class_name}", total=len(dataset)) as advance:
            for class_name, file_name, data in _images(dataset):
                path = target / class_name / f"{prefix}{file_name}"
                if not path.exists():
                    write_bytes(path, data)
                total += 1
                advance(1)
    return total


def _images(dataset: Any) -> Iterator[tuple[str, str, bytes]]:
    """(class folder name, file name, file bytes) of each image of a torchvision dataset."""
    names = [_folder_name(name) for name in getattr(dataset, "classes", [])]
    files = next((getattr(dataset, name) for name in _FILE_LISTS if hasattr(dataset, name)), None)
    if files is None:
        for number in range(len(dataset)):
            image, label = dataset[number]
            if not isinstance(image, PillowImage.Image):
                raise SettingsError(f"{type(dataset).__name__} gives {type(image).__name__}, not images")
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            yield _class_folder(names, label), f"{number:06d}.png", buffer.getvalue()
        return
    labels = getattr(dataset, "_labels", None)
    for number, entry in enumerate(files):
        path, label = entry if labels is None else (entry, labels[number])
        yield _class_folder(names, label), Path(path).name, Path(path).read_bytes()


def _class_folder(names: list[str], label: int) -> str:
    return names[label] if names else f"class-{label:03d}"


def _folder_name(name: str | tuple[str, ...]) -> str:
    """A class's (first) name as a folder name."""
    first = name if isinstance(name, str) else name[0]
    return re.sub(r"[^A-Za-z0-9]+", "-", first).strip("-").lower()
