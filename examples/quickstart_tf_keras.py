"""The quickstart for a model of tf_keras, the Keras 2 that TensorFlow shipped: the same call, data and report."""

# %% Real data: handwritten digits, 8 x 8 pixels with values 0 to 16.
import numpy as np
import tf_keras

import bigmodel as bm

(x_train, y_train), (x_test, y_test) = bm.data.load_digits()
x_train = x_train[..., np.newaxis].astype("float32") / 16
x_test = x_test[..., np.newaxis].astype("float32") / 16

# %% The network of the quickstart.
tf_keras.utils.set_random_seed(0)
model = tf_keras.Sequential(
    [
        tf_keras.layers.Input((8, 8, 1)),
        tf_keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
        tf_keras.layers.BatchNormalization(),
        tf_keras.layers.ReLU(),
        tf_keras.layers.MaxPooling2D(),
        tf_keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(64, activation="relu"),
        tf_keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=tf_keras.optimizers.Adam(2e-3),
    loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(x_train, y_train, epochs=8, batch_size=64, verbose=0)

# %% One call: zeros, then 8 bits trained with them, by tensorflow-model-optimization.
data = bm.Data(train=(x_train, y_train), test=(x_test, y_test))
result = bm.compress_and_tune(
    model,
    data,
    prune=0.5,
    quantize=bm.QuantizeConfig(method="aware"),
    tune=None,
    augment=None,
    train=bm.TrainConfig(epochs=3),
    directory="runs/digits_tf_keras",
)

# %% Every figure of the report was measured on the file itself; the model is a tf_keras model.
print(result.report)
print("predicted", result.model.predict(x_test[:8], verbose=0).argmax(axis=-1), "expected", y_test[:8])
