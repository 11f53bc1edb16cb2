"""Training as every step uses it: compile as the caller did, distil, stop early, place, resume.

`fit` fine-tunes, `pretrain` trains from the start; `clone` and `compile_like` make the model that they train, and
`ensure_compiled` gives a loss and metrics to a model that came without.
"""

from bigmodel.training.cloning import clone
from bigmodel.training.compilation import compile_like, peak_learning_rate
from bigmodel.training.defaults import ensure_compiled
from bigmodel.training.loop import TrainingResult, fit, pretrain

__all__ = ["TrainingResult", "clone", "compile_like", "ensure_compiled", "fit", "peak_learning_rate", "pretrain"]
