"""Training: shards → checkpoint.

`settings` says what is asked, `stage` walks the epochs, `passes` is one pass over the data, `folder` the files
of a run, `world` the processes of torchrun.
"""

from limla.training.settings import TrainResult, TrainSettings
from limla.training.stage import train

__all__ = ["TrainResult", "TrainSettings", "train"]
