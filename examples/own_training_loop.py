"""Each step alone: prune inside your own `model.fit`, quantize, export, and look at what is in the file."""

# %% A model and its data.
import keras
import numpy as np

import bigmodel as bm

(x_train, y_train), (x_test, y_test) = bm.data.load_digits()
x_train, x_test = (x.reshape(-1, 64).astype("float32") / 16 for x in (x_train, x_test))

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [
        keras.layers.Input((64,)),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(2e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(x_train, y_train, epochs=10, batch_size=64, verbose=0)
print("trained:", model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"])

# %% A callback prunes while your own loop trains. There is nothing to strip afterwards: the zeros are in the weights.
pruning = bm.callbacks.MagnitudePruning(sparsity=0.8, frequency=20)
model.fit(x_train, y_train, epochs=10, batch_size=64, verbose=0, callbacks=[pruning])
print("pruned: ", model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"])
for layer in model.layers:
    print(f"  {layer.name}: {np.mean(layer.get_weights()[0] == 0):.0%} zeros")

# %% Quantization-aware training gives a new model; the one above stays as it is.
train = bm.TrainConfig(epochs=3, batch_size=64)
quantized = bm.quantize(model, (x_train, y_train), bm.QuantizeConfig(bits=8, method="aware"), train=train)

# %% The file holds the very grid that the training has seen.
path = bm.export_litert(quantized, "digits.tflite")
file = bm.LiteModel(path)
print("on file:", np.mean(file.predict(x_test).argmax(axis=-1) == y_test), f"in {path.stat().st_size:,} bytes")
