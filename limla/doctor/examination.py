"""The whole examination, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from limla.doctor.decoders import decoder_findings
from limla.doctor.encoders import encoder_findings
from limla.doctor.findings import Finding
from limla.doctor.versions import codec_findings, machine_findings


def examine(folder: Path) -> Iterator[Finding]:
    """Findings one by one, as they are made: machine, versions, codecs, decoders, encoders.

    `folder` is where results would go: its disk's free space is told.
    """
    yield from machine_findings(folder)
    yield from codec_findings()
    yield from decoder_findings()
    yield from encoder_findings()
