"""A model and a file go through the same Keras metrics: the model's own `evaluate` is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bigmodel.errors import ArgumentError, DataError, ModelError
from bigmodel.evaluation import (
    Metric,
    agreement,
    drop_interval,
    evaluate,
    evaluate_file,
    evaluate_model,
    output_difference,
    primary_metric,
)

TOP2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")


def recompiled(model: Any, **arguments: Any) -> Any:
    copy = keras.models.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    copy.compile(**arguments)
    return copy


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}, "accuracy"),
        ({"loss": "sparse_categorical_crossentropy", "metrics": [TOP2, "acc"]}, "top2"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy()}, "loss"),
        ({"loss": "sparse_categorical_crossentropy"}, "loss"),
        ({"loss": "sparse_categorical_crossentropy", "weighted_metrics": ["acc"]}, "acc"),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_metric_is_the_one_keras_computes(
    network: Any, images: Any, labels: Any, samples: Any, arguments: dict, name: str, weighted: bool
) -> None:
    model = recompiled(network, **arguments)
    weights = np.random.default_rng(3).random(300) if weighted else None
    result = evaluate_model(model, samples(images, labels, weights), batch_size=64)
    expected = model.evaluate(images, labels, sample_weight=weights, batch_size=300, verbose=0, return_dict=True)
    assert primary_metric(model).name == name
    assert result.metric == pytest.approx(expected[name], rel=1e-5)
    assert result.metrics == pytest.approx(expected, rel=1e-5)
    assert result.samples == 300
    assert result.resampled(np.arange(300)) == pytest.approx(result.metric, rel=1e-5)
    if result.scores is not None:
        assert result.scores.mean() == pytest.approx(result.metric, rel=1e-4)


@pytest.mark.parametrize("name", ["float", "dynamic8", "int8"])
def test_a_file_is_measured_like_its_model(
    files: dict[str, Path], network: Any, images: Any, labels: Any, samples: Any, name: str
) -> None:
    split = samples(images, labels)
    reference = evaluate_model(network, split)
    result = evaluate_file(files[name], split, like=network, batch_size=50)
    assert agreement(reference, result) == np.mean(reference.outputs.argmax(1) == result.outputs.argmax(1))
    assert output_difference(reference, result) == pytest.approx(np.abs(reference.outputs - result.outputs).mean())
    assert result.metric == pytest.approx(np.mean(result.outputs.argmax(1) == labels))
    for index, accuracy in result.per_class.items():
        of_class = labels == int(index)
        assert accuracy == pytest.approx(np.mean(result.outputs.argmax(1)[of_class] == int(index)))
    if name == "float":
        assert output_difference(reference, result) < 1e-6


def test_several_inputs_and_outputs_are_matched_by_name(files: dict[str, Path], pair: Any, samples: Any) -> None:
    rng = np.random.default_rng(0)
    x = [rng.random((50, 4), dtype=np.float32), rng.random((50, 3), dtype=np.float32)]
    y = {"place": rng.random((50, 2)), "score": rng.integers(0, 2, 50)}
    reference = evaluate_model(pair, samples(x, y))
    expected = pair.evaluate(x, y, batch_size=50, verbose=0, return_dict=True)
    assert reference.metrics == pytest.approx(expected, rel=1e-5)
    assert reference.kinds == ("values", "binary") and reference.per_class is None
    for form in (x, {"b_input": x[0], "a_input": x[1]}):
        result = evaluate_file(files["pair"], samples(form, y), like=pair)
        assert output_difference(reference, result) < 1e-6
        assert agreement(reference, result) > 0.9999


def test_a_metric_of_several_outputs_is_their_mean(pair: Any, samples: Any) -> None:
    rng = np.random.default_rng(0)
    x = [rng.random((50, 4), dtype=np.float32), rng.random((50, 3), dtype=np.float32)]
    y = {"place": rng.random((50, 2)), "score": rng.random((50, 1))}
    model = recompiled(pair, loss="mse", metrics={"place": ["mae"], "score": ["mae"]})
    result = evaluate_model(model, samples(x, y))
    assert result.metric == pytest.approx((result.metrics["place_mae"] + result.metrics["score_mae"]) / 2)


@pytest.mark.parametrize(
    ("metrics", "name", "up"),
    [
        (["accuracy"], "accuracy", True),
        (["mae"], "mae", False),
        ([keras.metrics.AUC(name="roc")], "roc", True),
        ([keras.metrics.MeanSquaredError()], "mean_squared_error", False),
        ([keras.metrics.CosineSimilarity()], "cosine_similarity", True),
        ([keras.losses.mean_absolute_error], "mean_absolute_error", False),
        ([[], ["crossentropy"]], "crossentropy", False),
        (None, "loss", False),
    ],
)
def test_primary_metric(metrics: Any, name: str, up: bool) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(loss="mse", metrics=metrics)
    assert primary_metric(model) == Metric(name, up)


def test_drop_is_absolute_upwards_and_relative_downwards() -> None:
    assert Metric("accuracy", True).drop(0.9, 0.85) == pytest.approx(0.05)
    assert Metric("accuracy", True).drop(0.9, 0.95) == pytest.approx(-0.05)
    assert Metric("mse", False).drop(2.0, 2.5) == pytest.approx(0.25)
    assert Metric("loss", False).drop(-2.0, -1.0) == pytest.approx(0.5)
    assert Metric("mse", False).drop(0.0, 0.0) == 0.0
    assert Metric("mse", False).drop(0.0, 0.1) == np.inf
    assert Metric("accuracy", True).drop(0.9, np.nan) == np.inf


def with_scores(scores: np.ndarray) -> Any:
    from bigmodel.evaluation import Evaluation

    outputs = np.zeros((len(scores), 1))
    return Evaluation(float(scores.mean()), {}, len(scores), None, outputs, outputs, ("values",), scores)


def test_interval_has_the_width_of_the_normal_formula() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(4000) < 0.9).astype(float)
    after = np.where(rng.random(4000) < 0.03, 1 - before, before)
    low, high = drop_interval(with_scores(before), with_scores(after), Metric("accuracy", True))
    differences = before - after
    error = differences.std() / np.sqrt(4000)
    assert (low + high) / 2 == pytest.approx(differences.mean(), abs=0.3 * error)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_interval_repeats_with_the_seed_and_is_zero_for_equal_evaluations() -> None:
    rng = np.random.default_rng(0)
    a, b = with_scores(rng.random(200)), with_scores(rng.random(200))
    metric = Metric("mse", False)
    assert drop_interval(a, b, metric, seed=1) == drop_interval(a, b, metric, seed=1)
    assert drop_interval(a, b, metric, seed=1) != drop_interval(a, b, metric, seed=2)
    assert drop_interval(a, a, metric) == (0.0, 0.0)


def test_interval_of_a_metric_that_is_no_mean(samples: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((80, 3), dtype=np.float32), rng.integers(0, 2, 80)
    models = []
    for _ in range(2):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile(loss="binary_crossentropy", metrics=[keras.metrics.AUC(name="auc", num_thresholds=20)])
        models.append(evaluate_model(model, samples(x, y)))
    assert models[0].scores is None
    low, high = drop_interval(*models, Metric("auc", True))
    assert low < models[0].metric - models[1].metric < high


def test_evaluations_of_different_samples_are_refused() -> None:
    with pytest.raises(ArgumentError, match="same samples"):
        agreement(with_scores(np.ones(3)), with_scores(np.ones(4)))


def test_what_can_not_be_evaluated_is_refused(
    files: dict[str, Path], network: Any, pair: Any, images: Any, labels: Any, samples: Any
) -> None:
    with pytest.raises(DataError, match="no labels"):
        evaluate_model(network, samples(images, None))
    with pytest.raises(DataError, match="empty"):
        evaluate_model(network, samples(images[:0], labels[:0]))
    bare = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(5)])
    with pytest.raises(ModelError, match="not compiled"):
        evaluate_model(bare, samples(images, labels))
    bare.compile()
    with pytest.raises(ModelError, match="neither a metric nor a loss"):
        primary_metric(bare)
    with pytest.raises(ArgumentError, match="like="):
        evaluate(files["float"], (images, labels))
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(7)])
    other.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ArgumentError, match="not those of model"):
        evaluate_file(files["float"], samples(images, labels), like=other)


def test_the_model_is_not_changed(network: Any, images: Any, labels: Any, samples: Any) -> None:
    before = [w.copy() for w in network.get_weights()]
    metrics = list(network.metrics)
    evaluate_model(network, samples(images, labels))
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    assert all(a is b for a, b in zip(metrics, network.metrics, strict=True))
