"""Data in: any accepted form becomes checked, re-iterable splits."""

from bigmodel.data.digits import load_digits
from bigmodel.data.labelled import with_labels
from bigmodel.data.order import epoch_order
from bigmodel.data.splits import Data, Split, as_data, has_labels

__all__ = ["Data", "Split", "as_data", "epoch_order", "has_labels", "load_digits", "with_labels"]
