"""Every codec's bitstreams against the recorded ones: equal bytes make equal shards, and so equal numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from limla.codecs import build_codec
from limla.codecs.base import Codec, Learned
from limla.doctor.findings import Finding
from limla.doctor.records import SOURCE, pixels_of, recorded_bitstreams
from limla.errors import MissingDependencyError
from limla.registry import CODECS

_NUM_QUALITIES = 5


def encoder_findings() -> Iterator[Finding]:
    """A line for each installed codec but the learned ones, whose bytes are their weights': as recorded, or others."""
    recorded = recorded_bitstreams()
    for name in CODECS.names():
        try:
            if is_learned(name):
                continue
            codec = build_codec(name)
        except MissingDependencyError:
            continue
        yield _compared(name, codec, recorded.get(name))


def is_learned(name: str) -> bool:
    """Whether a codec of the catalogue has weights; raises `MissingDependencyError` where it is not installed."""
    return issubclass(CODECS.load(name), Learned)


def _compared(name: str, codec: Codec, known: dict[str, Any] | None) -> Finding:
    topic = f"encoder {name}"
    if known is None:
        return Finding(topic, f"{codec.version()}: no bytes are recorded to compare with")
    if codec.settings() != known["settings"]:
        return Finding(
            topic, f"differs: other settings than {known['version']} was recorded with", differs=True
        )
    made = bitstream_hashes(codec)
    others = sorted(
        (quality for quality, digest in known["sha256"].items() if made.get(quality) != digest), key=int
    )
    if not others:
        return Finding(topic, f"same bytes as recorded with {known['version']}")
    text = (
        f"differs: other bytes than {known['version']} recorded, at {codec.scale.knob} {', '.join(others)}; here "
        f"{codec.version()} encodes, and its numbers are not comparable bit by bit"
    )
    return Finding(topic, text, differs=True)


def bitstream_hashes(codec: Codec) -> dict[str, str]:
    """Quality, as text, → SHA-256 of what the codec makes of the golden source, from its lowest to its highest."""
    scale, image = codec.scale, pixels_of(SOURCE)
    steps = range(_NUM_QUALITIES)
    span = scale.highest - scale.lowest
    qualities = dict.fromkeys(scale.lowest + step * span // (_NUM_QUALITIES - 1) for step in steps)
    return {str(quality): hashlib.sha256(codec.encode(image, quality)).hexdigest() for quality in qualities}
