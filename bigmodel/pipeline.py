"""The calls that make a run in a directory: `compress_and_tune`, and the search alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from bigmodel.config import AugmentConfig, PruneConfig, QuantizeConfig, Target, TrainConfig, TuneConfig, resolve
from bigmodel.errors import ArgumentTypeError, describe
from bigmodel.legacy import is_tf_keras
from bigmodel.legacy.shell import own_objects, shell
from bigmodel.legacy_faces import entered, keras3_callbacks
from bigmodel.own_parts import custom_objects_of, has_lambda, own_parts_of
from bigmodel.result import Result
from bigmodel.run.identity import identity_of
from bigmodel.run.journal import Journal, alone, await_journal
from bigmodel.run.legacy import LegacyRun
from bigmodel.run.model_files import ModelFiles
from bigmodel.run.native import NativeRun
from bigmodel.run.plan import Plan, check_call, named
from bigmodel.run.progress import Stages, without_tracing_warnings
from bigmodel.run.search import log_of, shown
from bigmodel.training import prepare
from bigmodel.tuning.search import Options, Tuned, tune_model


def compress_and_tune(
    model: keras.Model,
    data: Any,
    *,
    target: Target | None = None,
    augment: AugmentConfig | Sequence[str] | Literal["auto"] | None = "auto",
    tune: TuneConfig | int | Literal["auto"] | None = "auto",
    prune: PruneConfig | Sequence[PruneConfig] | float | Literal["auto"] | None = "auto",
    quantize: QuantizeConfig | int | Literal["auto"] | None = "auto",
    train: TrainConfig | None = None,
    directory: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Result:
    """Makes the smallest file of a model that keeps the target. The caller's model, data and configs are not changed.

    The float file of the model is the baseline. The steps make candidates; each is written, run and measured on the
    validation split, and the target ranks them. The test split only measures the chosen one.

    Args:
        model: A built Keras 3 model; an uncompiled one gets a loss that fits its outputs and the labels.
        data: `(x, y)`, a `tf.data.Dataset`, `bigmodel.Data`, or any other form that `bigmodel.as_data` takes. Of x
            alone the model's own outputs are the labels, and the metric is the agreement with them.
        target: Bounds and order of the candidates; `None`: at most 0.01 below the float file.
        augment: An `AugmentConfig` or names of transforms: what the steps that train do to their samples. "auto": what
            fits the kind of the data, but for what hurts in short trainings. `None`: off.
        tune: A `TuneConfig` or a number of trials: compression is searched, within what else was ordered. "auto": where
            nothing was ordered and the network is neither tiny nor long to train, a few trials look for the smallest
            network within the bounds. `None`: off.
        prune: A sparsity, a `PruneConfig` or a list of them in order: only files of the pruned model compete. "auto":
            channels are removed where the target asks for a size or a latency that nothing else reaches; zeros do not
            shrink a .tflite. `None`: off.
        quantize: Bits or a `QuantizeConfig`: only files with those bits compete. "auto": 8 bits, 4 bits and float
            compete. `None`: only the storage may change (float32, float16, weight-only int8).
        train: How the steps train.
        directory: Where everything goes; a run that was cut off goes on when called again with the same arguments.
            `None`: a temporary one that lives as long as the result.
        seed: Same seed, same result (but for timings).
        verbose: 1 shows progress, 0 is silent.
        callbacks: Keras callbacks for every training.

    Returns:
        The result: `.model`, `.litert_path`, `.report`.

    Raises:
        ArgumentError: Arguments are out of range or contradict each other.
        DataError: The data is malformed or does not fit the model.
        ModelError: The model can't go through a step that was ordered.
        DirectoryError: The directory belongs to another run.
        ConversionError: The model has no float file, or no ordered file could be made.

    Example:
        `result = bm.compress_and_tune(model, (x_train, y_train), target=bm.Target(max_drop=0.005), quantize=8)`
    """
    given, model = model, shell(model) if is_tf_keras(model) else model
    check_call(model, seed=seed, verbose=verbose, callbacks=keras3_callbacks(given, callbacks))
    plan = Plan.of(target=target, augment=augment, tune=tune, prune=prune, quantize=quantize, train=train)
    keeps_files = directory is not None
    with entered(model), own_parts_of(model), without_tracing_warnings(), _place(directory) as place, alone(place):
        ready = prepare(model, data, seed=seed, batch_size=plan.train.batch_size)
        compiled, splits = ready.model, ready.data
        journal = Journal(place, identity_of(compiled, ready.given, plan.to_dict(), seed))
        models, stages, notes = ModelFiles(compiled), Stages(verbose), (*ready.notes, *plan.notes)
        if not journal.path("report.json").is_file():
            orders = (compiled, splits, plan, journal, models, stages, seed, tuple(callbacks), notes, keeps_files)
            (NativeRun if given is model else LegacyRun)(*orders).go()
    own, safe_mode = {**custom_objects_of(model), **own_objects(model)}, not has_lambda(model)
    return Result(place, custom_objects=own, safe_mode=safe_mode, is_temporary=not keeps_files)


def tune(
    model: Any,
    data: Any,
    config: TuneConfig | int = 20,
    *,
    target: Target | None = None,
    train: TrainConfig | None = None,
    directory: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Tuned:
    """Searches for the best hyperparameters of training or compression. Neither model nor data is changed.

    A fold of the validation data takes no part: the winner is verified on it, and where it breaks a bound there, the
    next best is taken. Where none holds, the nearest trials train twice as long, once.

    Args:
        model: A built Keras model, whose compression is searched unless `config.space` says otherwise; or a function
            `hp -> compiled model` or a `keras_tuner.HyperModel`, whose training is searched.
        data: Data in any form that `bigmodel.as_data` takes.
        config: What is searched and for how long; a number is `max_trials`.
        target: The bounds; `None`: at most 0.01 below the float file.
        train: How trials train where they say nothing else.
        directory: Where the trials lie; a search that was cut off goes on when called again with the same arguments.
            `None`: a temporary one that lives as long as the result.
        seed: Same seed, same result, where no objective or bound is measured with a clock.
        verbose: 1 shows each trial and the best so far, 0 is silent.
        callbacks: Keras callbacks for every training.

    Returns:
        The best trial's model, its hyperparameters, and all trials.

    Raises:
        ArgumentError: The objective, or a value of the space, is not known.
        DataError: The data does not fit the model.
        DirectoryError: The directory belongs to another search.
        ModelError: No trial came to anything.

    Example:
        `bm.tune(lambda hp: build(hp.Int("width", 16, 256)), (x, y), bm.TuneConfig(20, tuner="random")).model`
    """
    config, start = _config(config, model)
    check_call(start, seed=seed, verbose=verbose, callbacks=callbacks)
    target, train = target or Target(), train or TrainConfig()
    stages = Stages(verbose)
    with own_parts_of(start), without_tracing_warnings(), _place(directory) as place, _claimed(place):
        ready = prepare(start, data, seed=seed, test_fraction=0, batch_size=train.batch_size)
        orders = {"tune": named(config), "target": target.to_dict(), "train": named(train)}
        tell: Callable[[Mapping[str, Any]], Any] | None = None
        if not _is_worker():
            journal = Journal(place, identity_of(ready.model, ready.given, orders, seed))
            tell = log_of(journal)
        with stages.stage("search") as stage:
            options = Options(tell=tell, watch=shown(stages))
            tuned = tune_model(
                ready.model, ready.data, config, target=target, train=train, seed=seed,
                directory=place / "tuning", callbacks=callbacks, options=options,
            )  # fmt: skip
            stage.outcome = f"{tuned.objective}: {tuned.value:.4g}"
        if tell is not None:
            for row in tuned.trials:  # those of workers
                tell(row)
    if directory is None:
        weakref.finalize(tuned, shutil.rmtree, place, ignore_errors=True)
    return tuned


def _config(config: TuneConfig | int, model: Any) -> tuple[TuneConfig, keras.Model]:
    """The config, and the model that trials start from, or what `build` makes by default."""
    resolved = resolve(config, TuneConfig, "max_trials")
    if resolved is None or resolved == "auto":
        raise ArgumentTypeError(
            "config can't be used.",
            received=describe(config),
            expected="a number of trials or a TuneConfig",
            fix="Pass bm.tune(model, data, 20).",
        )
    if isinstance(model, keras.Model):
        return resolved, model
    if not callable(getattr(model, "build", model)):
        raise ArgumentTypeError(
            "model can't be used.",
            received=describe(model),
            expected="a Keras model, a function hp -> model, or a keras_tuner.HyperModel",
            fix="Pass a built model.",
        )
    import keras_tuner

    made = getattr(model, "build", model)(keras_tuner.HyperParameters())
    return dataclasses.replace(resolved, build=model), made


def _is_worker() -> bool:
    """Whether a chief elsewhere hands out the trials, as KerasTuner's environment variables say."""
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" not in os.environ.get("KERASTUNER_TUNER_ID", "chief")


@contextlib.contextmanager
def _claimed(place: Path) -> Iterator[None]:
    """Keeps other searches out, but for the workers of this one, who begin behind their chief."""
    if _is_worker():
        await_journal(place)
    with contextlib.nullcontext() if _is_worker() else alone(place):
        yield


@contextlib.contextmanager
def _place(directory: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The directory, or a temporary one, which is removed if the run fails."""
    if directory is not None:
        yield Path(directory)
        return
    place = Path(tempfile.mkdtemp(prefix="bigmodel-"))
    try:
        yield place
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
