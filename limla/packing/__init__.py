"""Packing: a folder of photos → source shards, once, with one policy for every odd picture (docs/packing.md)."""

from limla.packing.settings import PackSettings
from limla.packing.stage import PackResult, pack

__all__ = ["PackResult", "PackSettings", "pack"]
