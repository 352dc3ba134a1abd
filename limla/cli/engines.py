"""What the commands that map over shards say about their engines."""

WORKERS_HELP = "Threads in all; with spark, of each task. [default: one for each core; spark: spark.task.cpus]"
ENGINE_HELP = "Where the work is done: local or spark (docs/cluster.md)."
MASTER_HELP = (
    "Spark's master: spark://host:7077, yarn, local[4] … [default: Spark's configuration, else local[*]]"
)
