"""Training of the learned codec: shards → a weights file that `limla.codecs.autoencoder` reads.

`settings` says what is asked, `plan` settles the code's components and the order of its digits, `network` is what torch
trains, `crops` its data, `stage` walks the epochs, `fitting` counts the code's probabilities in the end.
"""

from limla.codec_training.settings import CodecTrainResult, CodecTrainSettings
from limla.codec_training.stage import train_codec

__all__ = ["CodecTrainResult", "CodecTrainSettings", "train_codec"]
