"""Bytes that other people's shards and numbers rest on stay what they were (`tools/make_golden.py` rewrites them)."""

from __future__ import annotations

import json

from tests.golden.build import GOLDEN, build


def test_bitstreams_pixels_and_shards_are_the_recorded_ones() -> None:
    assert build() == json.loads(GOLDEN.read_text(encoding="utf-8"))
