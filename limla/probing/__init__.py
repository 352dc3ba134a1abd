"""Probing: do the binary codes of a learned codec stay useful?

`settings` says what is asked, `stage` walks the parts, `views` draws the crops, `arrays` makes the inputs and keeps
them on disk, `linear` and `twins` are the two measurements, `parts` the finished ones, `rows` the table.
"""

from limla.probing.settings import ProbeSettings
from limla.probing.stage import ProbeResult, probe

__all__ = ["ProbeResult", "ProbeSettings", "probe"]
