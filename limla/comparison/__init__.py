"""The stage that compares codecs: rate, distortion and speed of each on the same photos."""

from limla.comparison.settings import CompareSettings
from limla.comparison.stage import CompareResult, compare

__all__ = ["CompareResult", "CompareSettings", "compare"]
