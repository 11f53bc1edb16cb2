"""The whole recipe on Fashion-MNIST: search a network, then find the smallest file that is as good.

    python fashion_mnist.py [fashion_mnist.npz]

Without a file Keras downloads the data. `--short` shows the same in seconds, on the digits that come with the package.
"""

# %% The data: images of clothes, 28 x 28 pixels with values 0 to 255, and ten classes.
import sys

import keras
import numpy as np

import bigmodel as bm

arguments = [argument for argument in sys.argv[1:] if argument == "--short" or argument.endswith(".npz")]
short = "--short" in arguments
if short:
    (x_train, y_train), (x_test, y_test) = bm.data.load_digits()
elif arguments:
    with np.load(arguments[0]) as file:
        x_train, y_train, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
else:
    (x_train, y_train), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
x_train, x_test = (x.astype("float32") / x_train.max() for x in (x_train, x_test))

# The winner of a search is partly lucky on the images that chose it. So a tenth of the images chooses the network, and
# another tenth, on which it is not lucky, is the measure of its small versions. Those may train on the first.
tenth = len(x_train) // 10
measure, choice, rest = slice(0, tenth), slice(tenth, 2 * tenth), slice(2 * tenth, None)
searched = bm.Data(train=(x_train[rest], y_train[rest]), validation=(x_train[choice], y_train[choice]))
data = bm.Data(
    train=(x_train[tenth:], y_train[tenth:]), validation=(x_train[measure], y_train[measure]), test=(x_test, y_test)
)


# %% The network. What shapes or compiles it is declared where it is used.
def build(hp):
    initializer = hp.Choice("initializer", ["glorot_uniform", "he_normal", "lecun_normal", "orthogonal"])
    rate = hp.Float("dropout", 0.1, 0.5, step=0.1)
    model = keras.Sequential([keras.Input(x_train.shape[1:]), keras.layers.Flatten()])
    for name, widest in (("w1", 256), ("w2", 128), ("w3", 64)):
        units = hp.Int(name, widest // 2, widest, step=widest // 4, default=widest)
        model.add(keras.layers.Dense(units, activation="relu", kernel_initializer=initializer))
        model.add(keras.layers.Dropout(rate))
    model.add(keras.layers.Dense(10, activation="softmax"))
    optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 3e-4, 3e-3, sampling="log", default=1e-3))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# %% Bayesian optimisation of all that, and of how strongly the images are varied.
def space(hp):
    return {"augmentation": hp.Choice("augmentation", [0.0, 0.25])}


tuned = bm.tune(
    build,
    searched,
    bm.TuneConfig(2 if short else 6, tuner="bayesian", objective="accuracy", space=space),
    train=bm.TrainConfig(epochs=1 if short else 10),
)
print("searched:", tuned.hyperparameters)

# %% The smallest file that loses nothing: channels go, 4 bits stay, and long trainings learn from the whole network.
result = bm.compress_and_tune(
    tuned.model,
    data,
    target=bm.Target(max_drop=0.0),
    tune=None if short else "auto",
    train=bm.TrainConfig(epochs=1 if short else 12, batch_size=256),
    directory="runs/fashion_mnist",
)

# %% All of it was measured on the file.
print(result.report)
final = result.report.final
print(f"{final['size_bytes']:,} bytes, accuracy {final['metric']:.4f}")
