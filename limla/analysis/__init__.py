"""From prediction rows to paired evidence: who is compared with whom, on the same images, and what follows.

The line is `read_predictions` → `pairs.collect` → one `Evidence` per split of a dataset → rows of one of these:

comparisons    every paired difference a report shows, with Holm's correction over the family
limits         the lowest quality that costs less accuracy than a margin
rate_curves    accuracy against bits per pixel, and the mean difference between two such curves
defence_table  what a codec in front of the model costs clean images and saves attacked ones
masking        signs that a model looks robust only because its gradients mislead the attacker
breakdown      where the loss comes from, step by step
calibration    does compression make a model more sure than it is right
classes        which classes pay for compression
flips          the images whose prediction changes first

Below them: `subjects` (what is tested), `encodings` (what the shard folders say), `columns` (rows as Arrow tables).
"""
