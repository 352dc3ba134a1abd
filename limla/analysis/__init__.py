"""From prediction rows to paired evidence: who is compared with whom, on the same images, and what follows.

encodings    what the shard folders say: bits per pixel per variant
pairs        conditions aligned by sample key; checkpoints that differ only in the seed as (S, N) arrays
comparisons  every paired difference a report shows, with Holm's correction over the family
limits       the lowest quality that costs less accuracy than a margin
rate_curves  accuracy against bits per pixel, and the mean difference between two such curves
"""
