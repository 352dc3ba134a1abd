"""Source shards × codec × qualities → one shard folder per quality, and what each image costs.

`stage` plans and finishes, `shard` is the work on one shard, `variant` the state of one output folder; `rates` finds
the quality at which a dataset takes a given number of bits.
"""

from limla.reencoding.rates import Matched, match_rates
from limla.reencoding.stage import ReencodeResult, ReencodeSettings, VariantSummary, reencode

__all__ = ["Matched", "ReencodeResult", "ReencodeSettings", "VariantSummary", "match_rates", "reencode"]
