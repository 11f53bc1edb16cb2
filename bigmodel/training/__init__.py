"""Training as every step uses it: compile as the caller did, distil, stop early, place, resume.

`fit` fine-tunes, `pretrain` trains from the start; `clone` and `compile_like` make the model that they train, and
`ensure_compiled` gives a loss and metrics to a model that came without. `prepare` makes a caller's model and data
ready, with labels or without. `initialize` and `regularize` make a variant of a model, for a search to choose among.
"""

from bigmodel.training.cloning import clone
from bigmodel.training.compilation import compile_like, peak_learning_rate
from bigmodel.training.defaults import ensure_compiled
from bigmodel.training.distillation import SOFT_SHARE, Distillation
from bigmodel.training.initialization import initialize
from bigmodel.training.judgement import (
    AugmentationChoice,
    SynthesisJudgement,
    choose_augmentation,
    judge_synthesis,
)
from bigmodel.training.loop import TrainingResult, fit, pretrain
from bigmodel.training.preparation import Prepared, prepare
from bigmodel.training.regularization import regularize

__all__ = [
    "SOFT_SHARE",
    "AugmentationChoice",
    "Distillation",
    "Prepared",
    "SynthesisJudgement",
    "TrainingResult",
    "choose_augmentation",
    "clone",
    "compile_like",
    "ensure_compiled",
    "fit",
    "initialize",
    "judge_synthesis",
    "peak_learning_rate",
    "prepare",
    "pretrain",
    "regularize",
]
