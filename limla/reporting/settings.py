"""What the manifests say about how the data were made, as text for tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from limla.analysis.encodings import DataFolder
from limla.manifest import SPLITS, Manifest


def manifest_rows(data: DataFolder) -> list[dict[str, str]]:
    """One line per variant: images per split, settings, versions."""
    return [
        {
            "variant": "source" if quality is None else f"{codec} q{quality}",
            "splits": ", ".join(f"{split} {manifest.num_samples(split)}" for split in manifest.splits()),
            "shards": str(len(manifest.shards)),
            "settings": "; ".join(f"{name} = {value}" for name, value in flatten(manifest.settings)),
            "versions": "; ".join(f"{name} {value}" for name, value in sorted(manifest.versions.items())),
        }
        for (codec, quality), manifest in data.manifests.items()
    ]


def counts(data: DataFolder) -> list[tuple[str, str]]:
    """What packing found, and images per split."""
    manifest = data.first
    lines = [
        (name, str(manifest.summary[name]))
        for name in ("found", "packed", "quarantined", "skipped")
        if isinstance(manifest.summary.get(name), int)
    ]
    lines += [
        (f"{split} images", str(manifest.num_samples(split))) for split in SPLITS if manifest.num_samples(split)
    ]
    return [*lines, ("classes", str(len(manifest.class_names)))]


def audit_warnings(data: DataFolder) -> list[str]:
    """The packer's warnings about the sources, such as a JPEG quality that depends on the class."""
    warnings: Any = _audit(data.first).get("warnings", [])
    return [str(text) for text in ([warnings] if isinstance(warnings, str) else warnings)]


def conversions(data: DataFolder) -> list[tuple[str, int]]:
    """Pictures that packing stored as PNG, by reason; one picture may have several reasons."""
    return _counted(_audit(data.first).get("all", {}), "converted")


def audit_notes(data: DataFolder) -> list[tuple[str, int]]:
    """Pictures with something that packing passed over, such as a colour profile that is not sRGB."""
    return _counted(_audit(data.first), "notes")


def _counted(found: Any, name: str) -> list[tuple[str, int]]:
    values = found.get(name, {}) if isinstance(found, dict) else {}
    return sorted((str(reason), number) for reason, number in values.items() if isinstance(number, int))


def _audit(manifest: Manifest) -> dict[str, Any]:
    audit: Any = manifest.summary.get("audit", {})
    return audit if isinstance(audit, dict) else {}


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, text), sorted by name."""
    if isinstance(value, dict):
        for name in sorted(value):
            yield from flatten(value[name], f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(item) for item in value) or "none"
    else:
        yield prefix, str(value)
