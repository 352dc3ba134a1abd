"""What the manifests say about how the data were made, as text for tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from limla.manifest import SPLITS, Manifest
from limla.reporting.encodings import DataFolder


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
    audit: Any = _summary_audit(data.first)
    warnings: Any = audit.get("warnings", []) if isinstance(audit, dict) else []
    return [str(text) for text in ([warnings] if isinstance(warnings, str) else warnings)]


def _summary_audit(manifest: Manifest) -> Any:
    return manifest.summary.get("audit", {})


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, text), sorted by name."""
    if isinstance(value, dict):
        for name in sorted(value):
            yield from flatten(value[name], f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list | tuple):
        yield prefix, ", ".join(str(item) for item in value) or "none"
    else:
        yield prefix, str(value)
