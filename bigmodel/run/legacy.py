"""The order of the steps of `compress_and_tune` for a tf_keras model in its shell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras

from bigmodel.config import Config, PruneConfig, QuantizeConfig, Where
from bigmodel.errors import ArgumentError, ConversionError, ModelError
from bigmodel.export.formats import FORMATS, Format
from bigmodel.legacy.files import deploy, deploy_weights
from bigmodel.legacy.network import check_configs
from bigmodel.legacy.pruning import check_pruning, left_dense
from bigmodel.legacy.quantization import is_aware
from bigmodel.legacy.shell import network_in
from bigmodel.legacy.steps import check_orders, pretrain_model, prune_model, quantize_aware, round_weights
from bigmodel.legacy.training import check_training
from bigmodel.quantization import Deployed
from bigmodel.run.base import BaseRun, simulated_by
from bigmodel.run.candidates import Figures
from bigmodel.run.competition import Order


class LegacyRun(BaseRun):
    """The run of a tf_keras model in its shell; one that was cut off goes on after the last step that ended."""

    def go(self) -> None:
        """The steps in their order."""
        configs = self._possible_orders()
        self.stages.say(f"bigmodel: {self.model.name} (tf_keras) into {self.journal.directory}")
        model = self._pretrained()
        self.competition.enter_baseline(lambda orders: self._float_files(model, orders), FORMATS["float32"])
        network, done = self._pruned(model, self._prune)
        if self.plan.float_formats:
            self.competition.enter(
                done, self.plan.float_formats, lambda orders: self._float_files(network, orders, done)
            )
        for config, formats in configs.items():
            self._enter_quantized(network, config, formats, done)
        for name in ("augment", "tune"):
            if isinstance(getattr(self.plan, name), Config):
                reason = "a tf_keras model has no such step: move it to Keras 3 with bm.from_legacy(model)"
                self._skip([{"layer": self.model.name, "step": name, "reason": reason}])
        if self.plan.may_remove_channels:
            reason = "no channels are removed from a tf_keras model: move it to Keras 3 with bm.from_legacy(model)"
            self._skip([{"layer": self.model.name, "step": "prune", "reason": reason}])
        choice = self.competition.decide(self.plan.target)
        self._conclude(choice, self.steps, self.notes)

    def _possible_orders(self) -> dict[QuantizeConfig, Sequence[Format]]:
        """Fails before anything is trained if an order can't be carried out; what was left open is done if it can."""
        train = self.plan.train
        check_training(train, train.epochs if self.plan.prunes else 1)
        if self.plan.prunes or train.pretrain_epochs:
            check_configs(network_in(self.model))
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
                self._skip([_refused(self.model, error)])
        return configs

    # --- steps that train: done once, kept as a model file -------------------------------------------------------

    def _pretrained(self) -> keras.Model:
        epochs = self.plan.train.pretrain_epochs
        if not epochs:
            return self.model

        def train(callbacks: list[Any], checkpoint: Path) -> tuple[keras.Model, Figures]:
            made = pretrain_model(self.model, self.data, self.plan.train, callbacks=callbacks, seed=self.seed)
            return made, {"epochs": epochs}

        return self._step("pretrain", "pretrain", self.model, train, epochs)

    def _prune(self, model: keras.Model, config: PruneConfig, name: str) -> keras.Model:
        def train(callbacks: list[Any], checkpoint: Path) -> tuple[keras.Model, Figures]:
            made = prune_model(model, self.data, config, train=self.plan.train, seed=self.seed, callbacks=callbacks)
            sizes = {"parameters_before": model.count_params(), "parameters_after": made.count_params()}
            left = left_dense(network_in(model), config)
            return made, {"granularity": config.granularity, "sparsity": config.share, **sizes, "skipped": left}

        return self._step(name, "prune, zeros", model, train, self.plan.train.epochs)

    def _aware(self, network: keras.Model, config: QuantizeConfig, done: tuple[str, ...]) -> keras.Model:
        def train(callbacks: list[Any], checkpoint: Path) -> tuple[keras.Model, Figures]:
            made, skipped = quantize_aware(
                network, self.data, config, train=self.plan.train, seed=self.seed, callbacks=callbacks
            )
            return made, {"bits": 8, "skipped": list(skipped)}

        name = "-".join([*done, "aware_int8"])
        return self._step(name, "quantization-aware training, 8 bits", network, train, self.plan.train.epochs)

    # --- files -----------------------------------------------------------------------------------------------------

    def _enter_quantized(
        self, network: keras.Model, config: QuantizeConfig, formats: Sequence[Format], done: tuple[str, ...]
    ) -> None:
        rows: list[Figures] = []
        weights = [f for f in formats if f.activations == "float" and not is_aware(network_in(network))]
        others = [format_ for format_ in formats if format_ not in weights]
        if config.method != "aware" and weights:
            rows += self.competition.enter(done, weights, partial(self._weight_files, network, where=config.where))
        if config.method != "aware" and others and config.where is None:
            rows += self._entered(network, others, done)
        elif config.method != "aware" and others:
            reason = "the converter quantizes all layers: with `where` only weight-only and trained files are made"
            self._skip([{"layer": self.model.name, "step": "quantize", "reason": reason}])
        static = [format_ for format_ in formats if format_.activations == "static"]
        trains = config.method != "post_training" and self.plan.train.epochs > 0
        if trains and static and not any(self._within(row) for row in rows):
            try:
                made = self._aware(network, config, done)
            except ModelError as error:  # an order of training was checked before anything ran
                self._skip([_refused(self.model, error)])
            else:
                self._entered(made, static, (*done, "aware"))

    def _entered(self, model: keras.Model, formats: Sequence[Format], done: tuple[str, ...]) -> list[Figures]:
        assert self.data.calibration is not None
        samples, _, _ = self.data.calibration.arrays()
        return self.competition.enter(done, formats, lambda orders: simulated_by(model, deploy(model, orders, samples)))

    def _weight_files(
        self, network: keras.Model, orders: Sequence[Order], where: Where | None
    ) -> list[Deployed | ConversionError]:
        try:
            rounded = round_weights(network, where)
        except ModelError as error:  # where it was ordered, it was checked before anything ran
            raise ConversionError(
                error.problem, received=error.received, expected=error.expected, fix=error.fix
            ) from error
        return simulated_by(rounded, deploy_weights(rounded, orders, where))


def _refused(model: keras.Model, error: ModelError | ArgumentError) -> Figures:
    return {"layer": model.name, "step": "quantize", "reason": f"{error.problem} {error.received}"}
