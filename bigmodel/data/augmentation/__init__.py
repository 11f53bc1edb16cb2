"""Training samples varied anew in each epoch, inside tf.data: images, sequences, tables and token ids."""

from bigmodel.data.augmentation.augmentation import CANDIDATES, SAFE, Augmentation, augment
from bigmodel.data.augmentation.kinds import kind_of

__all__ = ["CANDIDATES", "SAFE", "Augmentation", "augment", "kind_of"]
