"""What DALI reads, for those who must know without importing it."""

from __future__ import annotations

DALI_DECODES = ("jpg", "png", "bmp", "tif", "webp")
"""The extensions that DALI is tested to decode as the other loaders do."""
