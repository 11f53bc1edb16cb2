"""The order of the steps of `compress_and_tune` for a Keras 3 model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import PruneConfig, QuantizeConfig
from bigmodel.errors import ArgumentError, ConversionError, ModelError
from bigmodel.evaluation import evaluate_model
from bigmodel.export.formats import FORMATS
from bigmodel.own_parts import check_training
from bigmodel.pruning import KeepClusters, KeepZeros, prune_model
from bigmodel.pruning.channels import CostModel
from bigmodel.quantization import Deployed, deploy, quantize_aware, quantize_post_training, simulated
from bigmodel.quantization.allocation import told_bits, with_allotted_bits
from bigmodel.quantization.observer_choice import best_observer
from bigmodel.quantization.simulation import range_layers
from bigmodel.run.augmentation import AugmentationStage
from bigmodel.run.base import BaseRun
from bigmodel.run.candidates import Figures, channel_budget
from bigmodel.run.competition import Order
from bigmodel.run.search import SearchStage
from bigmodel.training import clone, pretrain


class NativeRun(BaseRun):
    """The run of a Keras 3 model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.augmentation = AugmentationStage(self.plan, self.data, self.journal, self.stages, self.seed)

    def go(self) -> None:
        """The steps in their order."""
        self._check_orders()
        self.stages.say(f"bigmodel: {self.model.name} into {self.journal.directory}")
        model = self._pretrained()
        self.competition.enter_baseline(lambda orders: self._float_files(model, orders), FORMATS["float32"])
        network, done = self._pruned(model, self._prune)
        self._enter_float(network, done)
        self._enter_quantized(network, done)
        choice = self.competition.decide(self.plan.target)
        if self._searched(network):
            choice = self.competition.decide(self.plan.target)
        smaller = self._smaller(network) if self.plan.may_remove_channels and not choice.target_met else None
        if smaller is not None:
            self._enter_float(smaller, ("channels",))
            self._enter_quantized(smaller, ("channels",))
            choice = self.competition.decide(self.plan.target)
        notes = (*self.notes, *self.augmentation.notes)
        self._conclude(choice, [*self.augmentation.steps, *self.steps], notes)

    def _check_orders(self) -> None:
        """Fails before anything is trained if an order can't be carried out; what was left open is done if it can."""
        if self.models.problem is not None:
            if self.plan.prunes or self.plan.train.pretrain_epochs:
                raise ModelError(
                    "The model can't be trained in a run that can be cut off.",
                    received=f"{type(self.model).__name__}: {self.models.problem}",
                    expected="a model that keras.models.load_model reads back",
                    fix=f"Write get_config() in {type(self.model).__name__}, or rebuild it with the functional API.",
                )
            reason = f"it can't be written as model.keras ({self.models.problem}): the result has its files only"
            self._skip([{"layer": self.model.name, "step": "save", "reason": reason}])
        self.quantized_formats = {}
        for config, formats in self.plan.quantized_formats().items():
            weights = dataclasses.replace(config, activations="float", activation_bits=8)
            is_ordered = isinstance(self.plan.quantize, QuantizeConfig)
            if not self._is_possible(partial(simulated, self.model, weights), is_ordered):
                continue
            if config.method != "post_training":
                trains = self._is_possible(partial(check_training, self.model), config.method == "aware")
                config = config if trains else dataclasses.replace(config, method="post_training")
            self.quantized_formats[config] = formats

    def _is_possible(self, attempt: Callable[[], Any], is_ordered: bool) -> bool:
        try:
            attempt()
        except ModelError as error:
            if is_ordered:
                raise
            reason = " ".join([error.problem, error.received])
            self._skip([{"layer": self.model.name, "step": "quantize", "reason": reason}])
            return False
        return True

    # --- steps that train: done once, kept as a model file -------------------------------------------------------

    def _pretrained(self) -> keras.Model:
        epochs = self.plan.train.pretrain_epochs
        if not epochs:
            return self.model

        def train(callbacks: list[keras.callbacks.Callback], checkpoint: Path) -> tuple[keras.Model, Figures]:
            made = clone(self.model)
            told = pretrain(
                made,
                self.augmentation.ordered_data(made),
                self.plan.train,
                callbacks=callbacks,
                seed=self.seed,
                checkpoint=checkpoint,
            )
            return made, {"epochs": told.epochs}

        return self._step("pretrain", "pretrain", self.model, train, epochs)

    def _prune(self, model: keras.Model, config: PruneConfig, name: str) -> keras.Model:
        def train(callbacks: list[keras.callbacks.Callback], checkpoint: Path) -> tuple[keras.Model, Figures]:
            made = prune_model(
                model, self.augmentation.training_data(model), config, train=self.plan.train, seed=self.seed,
                callbacks=[*callbacks, *([KeepZeros()] if config.granularity == "channel" else [])],
                checkpoint=checkpoint,
            )  # fmt: skip
            sizes = {"parameters_before": model.count_params(), "parameters_after": made.count_params()}
            if config.granularity == "channel":
                sizes |= {"macs_before": CostModel(model).after({}).macs, "macs_after": CostModel(made).after({}).macs}
            return made, {"granularity": config.granularity, **_order_of(config), **sizes}

        kind = "channels" if config.granularity == "channel" else "zeros"
        return self._step(name, f"prune, {kind}", model, train, self.plan.train.epochs)

    def _searched(self, network: keras.Model) -> bool:
        """Searches where it was ordered or may pay, and enters the files of what was found; says whether it did."""
        found = SearchStage(
            self.plan, self.augmentation, self.journal, self.competition, self.stages, self.seed, self.callbacks
        ).run(network)
        self.notes = (*self.notes, *found.notes)
        if found.tuned is None:
            return False
        self.trials = found.tuned.trials
        self.steps.append(dict(found.step))
        if found.formats:
            self._deployed(found.tuned.model, ("tuned",), found.formats)
        else:
            self._enter_float(found.tuned.model, ("tuned",))
            self._enter_quantized(found.tuned.model, ("tuned",))
        return True

    def _smaller(self, network: keras.Model) -> keras.Model | None:
        """Removes channels where size or latency miss the target; `None` where they do not, or nothing can go."""
        try:
            budget = channel_budget(self.plan.target, self.competition.rows)
            if not budget:
                return None
            config = PruneConfig(granularity="channel", ranking="global", budget=budget)
            return self._prune(network, config, "channels")
        except (ModelError, ArgumentError) as error:
            reason = " ".join([error.problem, error.received])
            self._skip([{"layer": self.model.name, "step": "prune", "reason": reason}])
            return None

    # --- files -----------------------------------------------------------------------------------------------------

    def _enter_float(self, network: keras.Model, done: tuple[str, ...]) -> None:
        if self.plan.float_formats:
            self.competition.enter(
                done, self.plan.float_formats, lambda orders: self._float_files(network, orders, done)
            )

    def _enter_quantized(self, network: keras.Model, done: tuple[str, ...]) -> None:
        for ordered, formats in self.quantized_formats.items():
            config, rows = with_allotted_bits(network, self.data, ordered), list[Figures]()
            if config.method != "aware":
                rows = self._deployed(self._post_trained(network, config, done), done, formats)
            if config.method != "post_training" and not any(self._within(row) for row in rows):
                simulation = self._aware(network, config, done)
                self._deployed(simulation, (*done, "aware"), formats)

    def _post_trained(self, network: keras.Model, config: QuantizeConfig, done: tuple[str, ...]) -> keras.Model:
        """Quantizes without training: the same again in a run that goes on, so nothing but its account is kept."""
        with self.stages.stage(f"post-training quantization, {config.label} weights") as stage:
            started = time.perf_counter()
            made = quantize_post_training(network, self.data, _weights_of(config))
            name = "-".join([*done, f"post_training_{config.label}"])
            told = self.journal.recall(f"step {name}") or self.journal.write(
                f"step {name}",
                {
                    "name": name,
                    "seconds": time.perf_counter() - started,
                    "metric_before": evaluate_model(network, self.judged, like=self.model).metric,
                    "metric_after": evaluate_model(made.simulation, self.judged, like=self.model).metric,
                    "bits": told_bits(config, made.simulation),
                    **made.chosen,
                },
            )
            stage.outcome = f"{self.metric.name} {told['metric_before']:.4f} -> {told['metric_after']:.4f}"
        self.steps.append(told)
        self._skip(made.skipped)
        return made.simulation

    def _aware(self, network: keras.Model, config: QuantizeConfig, done: tuple[str, ...]) -> keras.Model:
        def train(callbacks: list[keras.callbacks.Callback], checkpoint: Path) -> tuple[keras.Model, Figures]:
            simulation, skipped = quantize_aware(
                network, self.augmentation.training_data(network), _weights_of(config), train=self.plan.train,
                teacher=self.model, seed=self.seed,
                callbacks=[*callbacks, KeepZeros(), KeepClusters()], checkpoint=checkpoint,
            )  # fmt: skip
            return simulation, {
                "bits": told_bits(config, simulation),
                "skipped": [dataclasses.asdict(s) for s in skipped],
            }

        name = "-".join([*done, f"aware_{config.label}"])
        title = f"quantization-aware training, {config.label} weights"
        return self._step(name, title, network, train, self.plan.train.epochs)

    def _deployed(self, simulation: keras.Model, done: tuple[str, ...], formats: Sequence[Any]) -> list[Figures]:
        assert self.data.calibration is not None
        samples, _, _ = self.data.calibration.arrays()

        def write(orders: Sequence[Order]) -> list[Deployed | ConversionError]:
            observer = getattr(self.plan.quantize, "observer", "auto")
            is_open = observer in ("auto", "learned") and not range_layers(simulation)  # its own ranges go first
            if is_open and any(format_.activations == "static" for format_, _ in orders):
                observer, _ = best_observer(simulation, samples)
            return deploy(simulation, orders, samples, observer=observer)

        return self.competition.enter(done, formats, write)


def _order_of(config: PruneConfig) -> Figures:
    """What a pruning was ordered to leave, for the report."""
    if config.budget is not None:
        return {"budget": dict(config.budget)}
    shares = config.sparsity
    return {"sparsity": "a function" if callable(shares) else dict(shares) if isinstance(shares, Mapping) else shares}


def _weights_of(config: QuantizeConfig) -> QuantizeConfig:
    """The config that makes the weights, where the activations were left to measurement."""
    return dataclasses.replace(config, activations="dynamic") if config.activations == "auto" else config
