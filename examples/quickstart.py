"""From a trained Keras model to a small, verified .tflite: the whole job on a real data set, in a minute or two."""

# %% Real data: handwritten digits, 8 x 8 pixels with values 0 to 16. They come with the package.
import keras
import numpy as np

import bigmodel as bm

(x_train, y_train), (x_test, y_test) = bm.data.load_digits()
x_train = x_train[..., np.newaxis].astype("float32") / 16
x_test = x_test[..., np.newaxis].astype("float32") / 16

# %% Any Keras 3 model, built and trained as always.
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.layers.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(2e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(x_train, y_train, epochs=15, batch_size=64, verbose=0)

# %% One call. A validation split is cut from the training data; the test data chooses nothing, it only measures.
# Without `tune=None` it goes on to search for a smaller network, for two minutes more.
data = bm.Data(train=(x_train, y_train), test=(x_test, y_test))
result = bm.compress_and_tune(model, data, tune=None, directory="runs/digits")

# %% Every figure of the report was measured on the file itself.
print(result.report)

# %% The file runs without Keras.
scores = bm.LiteModel(result.litert_path).predict(x_test[:8])
print("predicted", scores.argmax(axis=-1), "expected", y_test[:8])
