"""One trial: values in, a network and its file out, measured."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigmodel.config import PruneConfig, QuantizeConfig, Target, TrainConfig
from bigmodel.data import Data, Split
from bigmodel.errors import ConversionError
from bigmodel.evaluation import evaluate_file, evaluate_model, inspect_file, measure_latency, primary_metric
from bigmodel.evaluation.metric import Metric
from bigmodel.export import export_float, first_run
from bigmodel.export.formats import FORMATS, Written, format_of
from bigmodel.export.quantized import write_files
from bigmodel.export.saved_model import input_names
from bigmodel.pruning import KeepZeros, prune_weights
from bigmodel.pruning.channels import prune_channels
from bigmodel.quantization import Deployed, deploy, quantize_aware, quantize_post_training
from bigmodel.quantization.simulation import activation_bits_of
from bigmodel.training import SOFT_SHARE, compile_like, fit, peak_learning_rate
from bigmodel.training.memory import forgotten_gradients
from bigmodel.tuning.objective import Objective, metric_value
from bigmodel.tuning.settings import (
    channels_config,
    check_values,
    ease_dropout,
    quantize_config,
    train_config,
    trained,
    trains_whole,
    zeros_config,
)

Figures = dict[str, Any]

# A training is given up when, after half of its epochs, the metric is so much worse than the bound allows: absolute
# where higher is better, else relative. Fine-tuning wins back a few points in its second half, not ten.
_HOPELESS = {True: 0.1, False: 1.0}
_FIRST_SAMPLES = 8


@dataclasses.dataclass(eq=False)
class Limits(keras.callbacks.Callback):
    """Ends a training that can't succeed, or whose time is up.

    Args:
        metric: The metric that decides.
        reference: Its value for the float file.
        max_drop: How far it may fall; `None`: any value may win.
        deadline: When time is up, on the clock of `time.monotonic`; `None`: never.
    """

    metric: Metric
    reference: float
    max_drop: float | None
    deadline: float | None

    def __post_init__(self) -> None:
        super().__init__()
        self.drop: float | None = None
        self.time_is_up = False
        self.seconds, self.epochs = 0.0, 0
        self._started = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._started = time.monotonic()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.seconds += time.monotonic() - self._started

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.time_is_up = True
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epochs += 1
        logs = logs or {}
        value = logs.get(f"val_{self.metric.name}")
        loss = logs.get("loss", 0.0)
        if value is None or self.max_drop is None:
            drop = math.inf if math.isnan(loss) else 0.0
        else:
            drop = self.metric.drop(self.reference, float(value))
        late = 2 * (epoch + 1) >= (self.params or {}).get("epochs", 1)
        allowed = (self.max_drop or 0.0) + _HOPELESS[self.metric.higher_is_better]
        if drop == math.inf or (late and self.max_drop is not None and drop > allowed):
            self.drop = drop
            self.model.stop_training = True


class HopelessError(Exception):
    """Ends a trial whose network is too bad for the steps that would follow."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all trials of a search share: computed once, changed by none.

    Args:
        model: The model that they start from, and whose loss and metrics count; compiled.
        data: The splits of the search, the fold that is set aside taken out.
        objective: What makes a trial good.
        train: How trials train where they say nothing else.
        seed: Same seed, same result.
        baseline: Figures of the float file of `model`; its `path` too.
        quantize: How weights are rounded, where that was ordered; the trial says the bits.
        callbacks: For every training.
    """

    model: keras.Model
    data: Data
    objective: Objective
    train: TrainConfig
    seed: int
    baseline: Mapping[str, Any]
    quantize: QuantizeConfig | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()

    @property
    def metric(self) -> Metric:
        """The metric that decides about bounds."""
        return primary_metric(self.model)

    @property
    def runtime(self) -> dict[str, Any]:
        """Threads and delegate on which files are measured."""
        return self.objective.target.runtime

    @property
    def judged(self) -> Split:
        """The samples on which trials are judged."""
        return judged(self.data, self.seed)

    @forgotten_gradients()
    def run(
        self,
        network: keras.Model | None,
        values: Mapping[str, Any],
        folder: Path,
        *,
        times: int = 1,
        deadline: float | None = None,
    ) -> Figures:
        """Runs a trial; writes model.keras, and model.tflite where the objective needs one, into its folder.

        Args:
            network: What `build(hp)` made; `None`: the trial starts from the bench's model.
            values: The trial's values, by the names of `bigmodel.tuning.VALUES`.
            folder: An existing directory.
            times: Factor on its epochs.
            deadline: When its training has to end, on the clock of `time.monotonic`.

        Returns:
            Its figures: score, metric, metric_drop and more; status "done", "stopped" (it could not succeed) or
            "failed" (a step can't be done with these values, reason says why).

        Raises:
            BigmodelError: The values can't be carried out.
        """
        check_values(values)
        started = time.monotonic()
        bound = self.objective.target.max_drop if self.objective.is_bounded else None
        limits = Limits(self.metric, self.baseline["metric"], bound, deadline)
        figures: Figures = {"status": "done", "reason": "", "applied": dict(values)}
        try:
            simulation = self._made(network, values, limits, times)
            figures |= self._measured(simulation, values, folder)
        except HopelessError:
            lost = "the loss is no number" if limits.drop == math.inf else f"{limits.drop:.4f} worse while it trained"
            figures |= {"status": "stopped", "reason": f"{self.metric.name}: {lost}", "metric_drop": limits.drop}
        if limits.time_is_up:
            figures["reason"] = "; ".join(filter(None, [figures["reason"], "time was up, its training ended early"]))
        figures["score"] = self.objective.score(figures, self.baseline)
        if not math.isfinite(figures["score"]):
            figures |= {"status": "failed", "score": None, "reason": f"{self.objective.name} is no number"}
        seconds = time.monotonic() - started
        return {**figures, "epochs": limits.epochs, "seconds": seconds, "seconds_outside": seconds - limits.seconds}

    def _made(self, network: keras.Model | None, values: Mapping[str, Any], limits: Limits, times: int) -> keras.Model:
        """The network of a trial, after all of its steps."""
        train = train_config(self.train, values, times=times)
        callbacks = [*self.callbacks, limits]
        made = self.model if network is None else network
        if network is not None or trains_whole(values):
            made = self._checked(trained(made, self.data, values, train, callbacks=callbacks, seed=self.seed), limits)
        channels, zeros = channels_config(made, values), zeros_config(values)
        bits = quantize_config(values, self.quantize)
        teacher = made
        if channels is not None:
            made = self._narrowed(made, channels, values, train, callbacks)
            self._checked(made, limits)
        if zeros is not None:
            made = prune_weights(made, self.data, zeros, train=train, seed=self.seed, callbacks=callbacks)
            self._checked(made, limits)
        if bits is not None and bits.method == "post_training":
            made = quantize_post_training(made, self.data, bits).simulation
        elif bits is not None:
            keeping = [KeepZeros()] if zeros is not None else []
            if channels is not None and train.distillation is None:
                train = dataclasses.replace(train, distillation=SOFT_SHARE)
            made, _ = quantize_aware(
                made, self.data, bits, train=train, teacher=teacher, seed=self.seed, callbacks=[*callbacks, *keeping]
            )
            self._checked(made, limits)
        return made

    def _narrowed(
        self,
        whole: keras.Model,
        channels: PruneConfig,
        values: Mapping[str, Any],
        train: TrainConfig,
        callbacks: list[keras.callbacks.Callback],
    ) -> keras.Model:
        """The network without some of its channels, trained again."""
        made = prune_channels(whole, self.data, channels, train=dataclasses.replace(train, epochs=0), seed=self.seed)
        ease_dropout(made, values, whole)
        if train.epochs:
            rate = peak_learning_rate(made)
            fit(
                made, self.data, train, learning_rate=rate, teacher=whole, distillation=SOFT_SHARE,
                callbacks=callbacks, seed=self.seed,
            )  # fmt: skip
        return made

    def _checked(self, made: keras.Model, limits: Limits) -> keras.Model:
        if limits.drop is not None:
            raise HopelessError
        return made

    def _measured(self, simulation: keras.Model, values: Mapping[str, Any], folder: Path) -> Figures:
        """Writes the model and its file, and measures them."""
        if not self.objective.is_bounded and "bits" not in values:
            answers = evaluate_model(simulation, self.judged, like=self.model)
            figures: Figures = {"parameters": simulation.count_params()}
        else:
            path = folder / "model.tflite"
            simulation, format_name = self._written(simulation, values, path)
            x, _, _ = self.judged.sample(_FIRST_SAMPLES).arrays()
            first_run(path, _by_name(self.model, x), **self.runtime)
            answers = evaluate_file(path, self.judged, like=self.model, **self.runtime)
            figures = {"format": format_name, **self.file_figures(path)}
        compile_like(simulation, self.model)
        simulation.save(folder / "model.keras")
        figures |= {"metric": answers.metric, "metric_drop": self.metric.drop(self.baseline["metric"], answers.metric)}
        if not self.objective.is_bounded:
            figures["objective"] = metric_value(self.objective.name, answers)
        return figures

    def _written(self, simulation: keras.Model, values: Mapping[str, Any], path: Path) -> tuple[keras.Model, str]:
        bits = int(values.get("bits", 32))
        if bits > 8:
            source = export_float(simulation, path if bits == 32 else path.with_name("float.tflite"))
            if bits == 32:
                return simulation, "float32"
            (written,) = write_files(source, [(FORMATS["float16"], path)])
            source.unlink()
            made = Deployed(written, simulation) if isinstance(written, Written) else written
            wanted = FORMATS["float16"]
        else:
            wanted = format_of(bits, values.get("activations", "dynamic"), activation_bits_of(simulation))
            assert self.data.calibration is not None
            samples, _, _ = self.data.calibration.arrays()
            (made,) = deploy(simulation, [(wanted, path)], samples)
        if isinstance(made, ConversionError):
            raise made
        return made.simulation, wanted.name

    def file_figures(self, path: Path) -> Figures:
        """Returns what a file is, and where it is bounded how long it takes next to the float file, in turns."""
        facts = inspect_file(path)
        figures = {name: getattr(facts, name) for name in ("size_bytes", "parameters", "macs", "sparsity")}
        if not self.objective.is_bounded:
            return figures
        x, _, _ = self.judged.sample(1).arrays()
        base, own = measure_latency([self.baseline["path"], path], sample=_by_name(self.model, x), **self.runtime)
        return {**figures, "latency_ms": own.median_ms, "slowdown": own.median_ms / base.median_ms}


def measure_baseline(model: keras.Model, data: Data, target: Target, seed: int, path: Path) -> Figures:
    """Writes the float file of a model where there is none yet, and measures it. The model is not changed.

    Args:
        model: A compiled model.
        data: The splits of the search.
        target: Names the runtime.
        seed: Picks the samples.
        path: The file.

    Raises:
        ConversionError: The model has no float file.
    """
    if not path.is_file():
        export_float(model, path)
    split = judged(data, seed)
    facts = inspect_file(path)
    x, _, _ = split.sample(1).arrays()
    (latency,) = measure_latency([path], sample=_by_name(model, x), **target.runtime)
    answers = evaluate_file(path, split, like=model, **target.runtime)
    names = ("size_bytes", "parameters", "macs")
    figures: Figures = {name: getattr(facts, name) for name in names}
    return {**figures, "metric": answers.metric, "latency_ms": latency.median_ms}


_JUDGED_SAMPLES = 10_000


def judged(data: Data, seed: int) -> Split:
    """Returns the samples on which trials are judged: the validation split of the search, 10,000 samples at most."""
    split: Split = data.validation or data.train
    return split.sample(_JUDGED_SAMPLES, seed=seed) if split.in_memory else split.head(_JUDGED_SAMPLES)


def _by_name(model: keras.Model, x: Any) -> Any:
    """Samples as a file takes them: by the names of its inputs, if there are several."""
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(x)]
    return leaves[0] if len(leaves) == 1 else dict(zip(input_names(model), leaves, strict=True))
