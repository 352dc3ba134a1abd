"""What DALI reads, for those who must know without importing it."""

from __future__ import annotations

DALI_DECODES = ("jpg", "png", "bmp", "tif", "webp")
"""The extensions that DALI is tested to decode as the other loaders do, on a CPU and on a GPU."""

DALI_CPU_DECODES = (*DALI_DECODES, "jp2")
"""Those on a CPU: pixels are the codec's bit for bit, of JPEG 2000 but for the rounding of a few values in a million.

On a GPU JPEG 2000 has a decoder of its own, which has not been compared.
"""
