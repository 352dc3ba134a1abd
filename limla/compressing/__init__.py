"""Compressing: loose picture files ↔ files of any codec (docs/files.md)."""

from limla.compressing.compress import CompressSettings, compress
from limla.compressing.decompress import DecompressSettings, decompress

__all__ = ["CompressSettings", "DecompressSettings", "compress", "decompress"]
