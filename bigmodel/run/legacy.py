"""The order of the steps of `compress_and_tune` for a tf_keras model in its shell."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import Config, PruneConfig, QuantizeConfig
from bigmodel.data import Data, Split
from bigmodel.errors import ArgumentError, ConversionError, ModelError
from bigmodel.evaluation import evaluate_model
from bigmodel.export import export_float
from bigmodel.export.formats import FORMATS, Format, Written
from bigmodel.export.quantized import write_files
from bigmodel.legacy.files import deploy
from bigmodel.legacy.pruning import check_pruning, left_dense
from bigmodel.legacy.shell import network_in
from bigmodel.legacy.steps import check_orders, pretrain_model, prune_model, quantize_aware
from bigmodel.quantization import Deployed
from bigmodel.run.candidates import Figures
from bigmodel.run.competition import Competition, Order
from bigmodel.run.conclusion import Conclusion
from bigmodel.run.journal import Journal
from bigmodel.run.model_files import ModelFiles
from bigmodel.run.plan import Plan
from bigmodel.run.progress import Stages


@dataclasses.dataclass
class LegacyRun:
    """One run: what it works on, and what it has to tell.

    Args:
        model: The compiled shell of the caller's model.
        data: The splits.
        plan: The orders.
        journal: The run's journal: a run that was cut off goes on after the last step that ended.
        models: Writes and reads models.
        stages: Shows what goes on.
        seed: The run's seed.
        callbacks: Callbacks for every training, of either Keras.
        notes: What a reader should know.
        keeps_files: Whether the directory stays.
        competition: The files that compete.
        judged: The samples on which steps are judged.
    """

    model: keras.Model
    data: Data
    plan: Plan
    journal: Journal
    models: ModelFiles
    stages: Stages
    seed: int
    callbacks: tuple[Any, ...]
    notes: Sequence[str]
    keeps_files: bool
    competition: Competition
    judged: Split

    def __post_init__(self) -> None:
        self.steps: list[Figures] = []
        self.skipped: dict[tuple[str, str, str], Figures] = {}

    def go(self) -> None:
        """The steps in their order."""
        configs = self._possible_orders()
        self.stages.say(f"bigmodel: {self.model.name} (tf_keras) into {self.journal.directory}")
        model = self._pretrained()
        self.competition.enter_baseline(lambda orders: self._float_files(model, orders), FORMATS["float32"])
        network, done = self._pruned(model)
        if self.plan.float_formats:
            self.competition.enter(done, self.plan.float_formats, lambda orders: self._float_files(network, orders))
        for config, formats in configs.items():
            self._enter_quantized(network, config, formats, done)
        for name in ("augment", "tune"):
            if isinstance(getattr(self.plan, name), Config):
                reason = "a tf_keras model has no such step: move it to Keras 3 with bm.from_legacy(model)"
                self._skip(self.model.name, name, reason)
        if self.plan.may_remove_channels:
            reason = "no channels are removed from a tf_keras model: move it to Keras 3 with bm.from_legacy(model)"
            self._skip(self.model.name, "prune", reason)
        choice = self.competition.decide(self.plan.target)
        conclusion = Conclusion(
            self.model, self.data, self.plan, self.journal, self.models, self.competition, self.stages, self.seed,
            self.keeps_files,
        )  # fmt: skip
        conclusion.write(choice, self.steps, list(self.skipped.values()), self.notes)
        if not self.keeps_files:
            for name in ("candidates", "checkpoints"):
                shutil.rmtree(self.journal.path(name), ignore_errors=True)

    def _possible_orders(self) -> dict[QuantizeConfig, Sequence[Format]]:
        """Fails before anything is trained if an order can't be carried out; what was left open is done if it can."""
        for pruning in self.plan.prunes:
            check_pruning(pruning)
        configs: dict[QuantizeConfig, Sequence[Format]] = {}
        for config, formats in self.plan.quantized_formats().items():
            try:
                check_orders(self.model, config)
                configs[config] = formats
            except (ModelError, ArgumentError) as error:
                if isinstance(self.plan.quantize, QuantizeConfig):
                    raise
                self._skip(self.model.name, "quantize", f"{error.problem} {error.received}")
        return configs

    def _skip(self, layer: str, step: str, reason: str) -> None:
        self.skipped[layer, step, reason] = {"layer": layer, "step": step, "reason": reason}

    # --- steps that train: done once, kept as a model file -------------------------------------------------------

    def _step(
        self,
        name: str,
        title: str,
        model: keras.Model,
        train: Callable[[list[Any]], tuple[keras.Model, Figures]],
        epochs: int,
    ) -> keras.Model:
        path = self.journal.path("checkpoints", f"{name}.keras")
        with self.stages.stage(title, epochs=epochs) as stage:
            told = self.journal.recall(f"step {name}")
            if told is None:
                started = time.perf_counter()
                made, details = train([*self.callbacks, *stage.callbacks])
                self.models.save(made, path)
                figures = {
                    "name": name,
                    "seconds": time.perf_counter() - started,
                    "metric_before": evaluate_model(model, self.judged, like=self.model).metric,
                    "metric_after": evaluate_model(made, self.judged, like=self.model).metric,
                    **details,
                }
                told = self.journal.write(f"step {name}", figures)
            else:
                made = self.models.load(path)
            stage.outcome = f"{self.competition.metric.name} {told['metric_before']:.4f} -> {told['metric_after']:.4f}"
        self.steps.append(told)
        for row in told.get("skipped", ()):
            self._skip(row["layer"], row["step"], row["reason"])
        return made

    def _pretrained(self) -> keras.Model:
        epochs = self.plan.train.pretrain_epochs
        if not epochs:
            return self.model

        def train(callbacks: list[Any]) -> tuple[keras.Model, Figures]:
            made = pretrain_model(self.model, self.data, self.plan.train, callbacks=callbacks, seed=self.seed)
            return made, {"epochs": epochs}

        return self._step("pretrain", "pretrain", self.model, train, epochs)

    def _pruned(self, model: keras.Model) -> tuple[keras.Model, tuple[str, ...]]:
        done: tuple[str, ...] = ()
        for number, config in enumerate(self.plan.prunes, start=1):
            name = "prune" if len(self.plan.prunes) == 1 else f"prune{number}"
            model = self._prune(model, config, name)
            done = (*done, name)
        return model, done

    def _prune(self, model: keras.Model, config: PruneConfig, name: str) -> keras.Model:
        def train(callbacks: list[Any]) -> tuple[keras.Model, Figures]:
            made = prune_model(model, self.data, config, train=self.plan.train, seed=self.seed, callbacks=callbacks)
            sizes = {"parameters_before": model.count_params(), "parameters_after": made.count_params()}
            left = left_dense(network_in(model), config)
            return made, {"granularity": config.granularity, "sparsity": config.share, **sizes, "skipped": left}

        return self._step(name, "prune, zeros", model, train, self.plan.train.epochs)

    def _aware(self, network: keras.Model, config: QuantizeConfig, done: tuple[str, ...]) -> keras.Model:
        def train(callbacks: list[Any]) -> tuple[keras.Model, Figures]:
            made, skipped = quantize_aware(
                network, self.data, config, train=self.plan.train, seed=self.seed, callbacks=callbacks
            )
            return made, {"bits": 8, "skipped": list(skipped)}

        name = "-".join([*done, "aware_int8"])
        return self._step(name, "quantization-aware training, 8 bits", network, train, self.plan.train.epochs)

    # --- files -----------------------------------------------------------------------------------------------------

    def _float_files(self, network: keras.Model, orders: Sequence[Order]) -> list[Deployed | ConversionError]:
        with tempfile.TemporaryDirectory(prefix="bigmodel-float-") as folder:
            source = export_float(network, Path(folder, "float.tflite"))
            return _with_simulation(write_files(source, orders), network)

    def _enter_quantized(
        self, network: keras.Model, config: QuantizeConfig, formats: Sequence[Format], done: tuple[str, ...]
    ) -> None:
        rows: list[Figures] = []
        if config.method != "aware":
            rows = self._entered(network, formats, done)
        static = [format_ for format_ in formats if format_.activations == "static"]
        if config.method != "post_training" and static and not any(self._within(row) for row in rows):
            self._entered(self._aware(network, config, done), static, (*done, "aware"))

    def _entered(self, model: keras.Model, formats: Sequence[Format], done: tuple[str, ...]) -> list[Figures]:
        assert self.data.calibration is not None
        samples, _, _ = self.data.calibration.arrays()
        return self.competition.enter(
            done, formats, lambda orders: _with_simulation(deploy(model, orders, samples), model)
        )

    def _within(self, row: Figures) -> bool:
        return row["status"] != "failed" and row["metric_drop"] <= self.plan.target.max_drop


def _with_simulation(
    files: Sequence[Written | ConversionError], model: keras.Model
) -> list[Deployed | ConversionError]:
    """Files with the shell that computes as they do; of a file quantized after training, as it did before."""
    return [Deployed(file, model) if isinstance(file, Written) else file for file in files]
