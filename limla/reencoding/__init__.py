"""Source shards × codec × qualities → one shard folder per quality, and what each image costs.

`stage` plans and finishes, `shard` is the work on one shard, `variant` the state of one output folder.
"""

from limla.reencoding.stage import ReencodeResult, ReencodeSettings, VariantSummary, reencode

__all__ = ["ReencodeResult", "ReencodeSettings", "VariantSummary", "reencode"]
