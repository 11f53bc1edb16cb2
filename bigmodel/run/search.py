"""The search as a stage of a run."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from bigmodel.config import QuantizeConfig, TuneConfig
from bigmodel.errors import ArgumentError, ConversionError, ModelError
from bigmodel.export.formats import Format, format_named, format_of
from bigmodel.pruning import KeepClusters, KeepZeros
from bigmodel.run.augmentation import AugmentationStage
from bigmodel.run.competition import Competition
from bigmodel.run.journal import Journal
from bigmodel.run.plan import NOTHING_PRUNED, Plan
from bigmodel.run.progress import Stages
from bigmodel.tuning.objective import SLOWER_ALLOWED
from bigmodel.tuning.search import Options, Tuned, tune_model

Row = Mapping[str, Any]


def log_of(journal: Journal) -> Callable[[Row], Any]:
    """Writes each trial into `log.jsonl`, once."""
    return lambda row: journal.once(f"trial {row['trial']}", lambda: row)


def shown(stages: Stages) -> Callable[[Row, Row | None], Any]:
    """Shows each trial, and the best so far."""

    def watch(row: Row, best: Row | None) -> None:
        so_far = "" if best is None else f"; best so far: {best['trial']} with {best['score']:.4g}"
        stages.say(f"    trial {told(row)}{so_far}")

    return watch


def told(row: Row) -> str:
    """Returns a trial in a few words."""
    words = [row["trial"]]
    if row.get("metric") is not None:
        words.append(f"metric {row['metric']:.4f}")
    if row.get("size_bytes") is not None:
        words.append(f"{row['size_bytes']:,} bytes")
    if row["status"] != "done":
        words.append(f"{row['status']}: {row['reason']}")
    return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Found:
    """What the search of a run came to.

    Args:
        tuned: Its result; `None` where nothing was searched or found.
        notes: Why not, and what else a reader should know.
        step: What the report's list of steps says.
        formats: Formats of the files that compete, where the model simulates its file; empty: it is a float network.
    """

    tuned: Tuned | None
    notes: tuple[str, ...]
    step: Row = dataclasses.field(default_factory=dict)
    formats: tuple[Format, ...] = ()


@dataclasses.dataclass(frozen=True)
class SearchStage:
    """The search of a run.

    Args:
        plan: The orders.
        augmentation: Gives the run's splits.
        journal: The run's journal.
        competition: The files that compete so far, their latencies measured.
        stages: Shows what goes on.
        seed: The run's seed.
        callbacks: For every training.
    """

    plan: Plan
    augmentation: AugmentationStage
    journal: Journal
    competition: Competition
    stages: Stages
    seed: int
    callbacks: Sequence[keras.callbacks.Callback]

    def run(self, network: keras.Model) -> Found:
        """Searches where that was ordered or may pay, or reads what a search in this directory has found.

        Args:
            network: The compiled model that trials start from.
        """
        if self.plan.tune is None:
            return Found(None, ())
        is_ordered = isinstance(self.plan.tune, TuneConfig)
        reason = "" if is_ordered else self._reason_not_to(network)
        if reason:
            pruned = () if self.plan.may_remove_channels or not self.plan.prune_is_auto else (NOTHING_PRUNED,)
            return Found(None, (f"tune='auto': nothing was searched, as {reason}", *pruned))
        started = time.perf_counter()
        try:
            tuned = self._search(network, is_ordered)
        except (ModelError, ArgumentError, ConversionError) as error:
            if is_ordered:
                raise
            return Found(None, (f"tune='auto': {error.problem} {error.received}",))
        before = self.competition.baseline["metric"]
        step = {"name": "tune", "seconds": time.perf_counter() - started, "metric_before": before}
        best = next(row for row in tuned.trials if row["trial"] == tuned.trial)
        values = {name: value for name, value in tuned.hyperparameters.items() if name != "name"}
        step = self.journal.once(
            "step tune", lambda: {**step, "metric_after": best["metric"], "trials": len(tuned.trials), **values}
        )
        return Found(tuned, tuned.notes, step, tuple(self._formats(tuned)))

    def _search(self, network: keras.Model, is_ordered: bool) -> Tuned:
        plan = self.plan
        ordered = plan.quantize if isinstance(plan.quantize, QuantizeConfig) else None
        options = Options(
            tell=log_of(self.journal), watch=shown(self.stages), fixed=self._fixed(is_ordered),
            may_remove_channels=plan.prune_is_auto, bisect=not is_ordered, quantize=ordered,
            baseline=self.journal.path(self.competition.baseline["path"]),
        )  # fmt: skip
        keeping = [KeepZeros(), KeepClusters()] if plan.prunes else []
        config = plan.tune if isinstance(plan.tune, TuneConfig) else TuneConfig()
        with self.stages.stage("search") as stage:
            tuned = tune_model(
                network, self.augmentation.ordered_data(network), config, target=plan.target, train=plan.train,
                seed=self.seed, directory=self.journal.path("tuning"), callbacks=[*self.callbacks, *keeping],
                options=options,
            )  # fmt: skip
            held = "the best" if tuned.target_met else "none holds, the nearest"
            stage.outcome = f"{len(tuned.trials)} trials; {held}: {tuned.objective} {tuned.value:.4g}"
        return tuned

    def _fixed(self, is_ordered: bool) -> dict[str, Any]:
        """Values of every trial: what was ordered, or what the files so far say about bits."""
        plan = self.plan
        fixed: dict[str, Any] = {} if plan.prune_is_auto else {"sparsity": 0.0, "channels": 1.0}
        if isinstance(plan.quantize, QuantizeConfig):
            activations = "dynamic" if plan.quantize.activations == "auto" else plan.quantize.activations
            return {**fixed, "bits": plan.quantize.bits, "activations": activations}
        if plan.quantize is None:
            return {**fixed, "bits": 8, "activations": "float"}
        return fixed if is_ordered else {**fixed, **self._smallest_fast_enough()}

    def _smallest_fast_enough(self) -> dict[str, Any]:
        """Bits and activations of the smallest file that `target.optimize` would not put behind, right or not."""
        known = [row for row in self.competition.rows if row["status"] != "failed"]
        most = SLOWER_ALLOWED * self.competition.baseline["latency_ms"]
        fast = [row for row in known if self.plan.target.optimize == "size" or row["latency_ms"] <= most] or known
        key = "latency_ms" if self.plan.target.optimize == "latency" else "size_bytes"
        chosen = format_named(min(fast, key=lambda row: (row[key], row["name"]))["format"])
        return {"bits": chosen.bits, "activations": chosen.activations} if chosen.quantized else {"bits": chosen.bits}

    def _formats(self, tuned: Tuned) -> list[Format]:
        bits = int(tuned.hyperparameters.get("bits", 32))
        if bits > 8:
            return []
        formats = [f for config, of in self.plan.quantized_formats().items() if config.bits == bits for f in of]
        return formats or [format_of(bits, tuned.hyperparameters.get("activations", "dynamic"))]

    def _reason_not_to(self, network: keras.Model) -> str:
        """Says why a run that was left to itself should not search; empty where it should."""
        plan, train, baseline = self.plan, self.plan.train, self.competition.baseline
        if not plan.prune_is_auto or plan.quantize != "auto":
            return "the compression was ordered"
        if train.epochs == 0:
            return "there is no training (epochs=0)"
        if self.augmentation.data.validation is None:
            return "there is no validation split"
        if baseline["size_bytes"] < _LEAST_BYTES:
            return f"the float file has {baseline['size_bytes']:,} bytes, many of which are not weights"
        work = (
            float(baseline["macs"]) * (self.augmentation.data.train.size or math.inf) * train.epochs * _EPOCHS_OF_LADDER
        )
        if work > _MOST_MACS:
            return f"its trainings would take about {work:.0e} multiply-accumulates; tune=20 orders it"
        return ""


# A search along one ladder trains about this many times the epochs of one step.
_EPOCHS_OF_LADDER = 16
# Most multiply-accumulates of its trainings, forward passes alone: some minutes on two cores.
_MOST_MACS = 2e13
# Below this many bytes the float file is to a good part what every file needs besides its weights.
_LEAST_BYTES = 50_000
