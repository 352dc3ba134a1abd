"""Folders of loose files → folders of the same shape: converted file by file, resumed, nothing foreign touched."""

from limla.trees.conversion import Conversion, Refused, Row, Source
from limla.trees.sources import Sources, find_sources
from limla.trees.stage import TreeResult, convert_tree

__all__ = [
    "Conversion", "Refused", "Row", "Source", "Sources", "TreeResult", "convert_tree", "find_sources",
]  # fmt: skip
