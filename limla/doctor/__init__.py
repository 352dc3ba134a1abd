"""Is this installation the one that the numbers were made with? Versions, codecs, decoders and encoders compared."""

from limla.doctor.examination import examine
from limla.doctor.findings import Finding

__all__ = ["Finding", "examine"]
