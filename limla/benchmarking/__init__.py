"""Benchmarks: contenders in turn, in fresh processes, on the same images; medians, ratios, peak memory.

`harness` runs any contenders, `passes` is the child's side, `comparisons` are those of `limla bench`, `checks`
make sure that all did the same work. `benchmarks/` in the repository adds the peers.
"""

from limla.benchmarking.comparisons import STAGES, BenchSettings, bench
from limla.benchmarking.harness import Comparison, Contender, as_record, compare

__all__ = ["STAGES", "BenchSettings", "Comparison", "Contender", "as_record", "bench", "compare"]
