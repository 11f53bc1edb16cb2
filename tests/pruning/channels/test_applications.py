"""The table: half of all channels removed from every architecture of `keras.applications`.

    pytest -m slow -s tests/pruning/channels/test_applications.py

prints one row for each: the largest difference from the masked model, relative to the spread of its logits; how much
smaller the removal makes it; and how far its .tflite is from it. All weights, biases and statistics are random, since
the ones that an architecture starts with hide mistakes.
"""

import keras
import numpy as np
import pytest
from reference import flat_outputs, masked, random_keep, randomise, relative_difference, samples

from bigmodel.export import export_float
from bigmodel.litert import LiteModel
from bigmodel.pruning.channels import CostModel, find_channels, remove_channels

# Name, input size, and how many times fewer parameters and MACs half of the channels have to give. A LayerNormalization
# holds the widths of ConvNeXt's residual stream: only the wide layers inside its blocks can shrink.
ARCHITECTURES = [
    ("MobileNet", 32, 2.0),
    ("MobileNetV2", 32, 2.0),
    ("MobileNetV3Small", 32, 2.0),
    ("MobileNetV3Large", 32, 2.0),
    ("EfficientNetB0", 32, 2.0),
    ("EfficientNetV2B0", 32, 2.0),
    ("ResNet50", 32, 2.0),
    ("ResNet50V2", 32, 2.0),
    ("DenseNet121", 32, 2.0),
    ("InceptionV3", 75, 2.0),
    ("InceptionResNetV2", 75, 2.0),
    ("Xception", 71, 2.0),
    ("VGG16", 32, 2.0),
    ("ConvNeXtTiny", 32, 1.7),
    ("NASNetMobile", 32, 2.0),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Keras' own architectures
@pytest.mark.parametrize(("name", "size", "factor"), ARCHITECTURES, ids=[name for name, *_ in ARCHITECTURES])
def test_half_of_the_channels(name, size, factor, tmp_path):
    keras.backend.clear_session()
    build = getattr(keras.applications, name)
    model = randomise(build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None))
    channels = find_channels(model)
    keep, x = random_keep(channels), samples(model, 2)
    smaller = remove_channels(model, keep, channels=channels)
    whole, left = CostModel(model, channels).after({}), CostModel(model, channels).after(keep)
    before, ours = flat_outputs(model, x), flat_outputs(smaller, x)
    reference = flat_outputs(masked(model, channels, keep), x)
    difference = relative_difference(ours, reference)

    smaller.save(tmp_path / "smaller.keras")
    reloaded = keras.models.load_model(tmp_path / "smaller.keras")
    lite = LiteModel(export_float(smaller, tmp_path / "smaller.tflite"))
    lite_difference = relative_difference([np.asarray(lite.predict(x))], ours)
    print(
        f"\n{name:20} {size:3} {len(channels.groups):4} groups  difference {difference:.0e}  "
        f"parameters {whole.parameters / left.parameters:.2f}x  MACs {whole.macs / left.macs:.2f}x  "
        f"file difference {lite_difference:.0e}",
        flush=True,
    )

    assert difference < 1e-4
    assert relative_difference(before, reference) > 1e-2, "the masks had no effect"
    assert whole.parameters >= factor * left.parameters and whole.macs >= factor * left.macs
    assert left.parameters == smaller.count_params()
    assert relative_difference(flat_outputs(reloaded, x), ours) < 1e-6
    assert lite_difference < 1e-3
    assert _trains(reloaded, x)


def _trains(model, x):
    model.compile(keras.optimizers.SGD(1e-3, clipnorm=1.0), "mse")
    before = [weight.numpy() for weight in model.trainable_weights]
    loss = model.train_on_batch(x, np.zeros((len(x), 10), "float32"))
    after = [weight.numpy() for weight in model.trainable_weights]
    return np.isfinite(loss) and any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
