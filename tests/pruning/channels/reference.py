"""What the tests of channel removal compare with: the whole model, with zero weights wherever a channel is read."""

import keras
import numpy as np

ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def randomise(model, seed=0):
    """Random values for all variables, biases and statistics included, of a size that keeps activations near 1."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        name, shape = variable.path.rsplit("/", 1)[-1], variable.shape
        if "variance" in name:
            value = rng.uniform(0.5, 1.5, shape)
        elif name in ("gamma", "scale"):
            value = rng.uniform(0.6, 1.4, shape)
        elif len(shape) < 2:
            value = rng.normal(0, 0.3, shape)
        else:
            fan_in = np.prod(shape) / max(shape[-1], 1) if "depthwise" not in variable.path else np.prod(shape[:-2])
            value = rng.normal(0, 1.4 / np.sqrt(max(fan_in, 1)), shape)
        variable.assign(value.astype("float32"))
    return model


def random_keep(channels, share=0.5, seed=1):
    """Random masks that keep a share of each group."""
    rng = np.random.default_rng(seed)
    keep = {}
    for group in channels.groups:
        mask = np.zeros(group.size, bool)
        mask[rng.permutation(group.size)[: max(1, round(group.size * share))]] = True
        keep[group.name] = mask
    return keep


def masked(model, channels, keep, products=()):
    """The whole model with the removed channels multiplied by 0 where they are read; its weights are changed in place.

    A kernel that reads a channel gets zero rows for it. Groups that are read without a kernel, by a product of two
    tensors (named in `products`, and all of attention layers), get their zeros from the layers that make them.
    """
    for name, mask in keep.items():
        for member in channels[name].members:
            if member.role == "reads" or name in products or isinstance(member.operation, ATTENTION):
                value = member.variable.numpy()
                gone = (member.channels >= 0) & ~mask[member.channels]
                np.moveaxis(value, member.axis, 0)[gone] = 0.0
                member.variable.assign(value)
    return model


def samples(model, count=4, seed=2):
    """Random inputs in the model's own structure."""
    rng = np.random.default_rng(seed)

    def sample(tensor):
        shape = (count, *(6 if size is None else size for size in tensor.shape[1:]))
        return rng.integers(0, 10, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(sample, model.inputs[0] if isinstance(model, keras.Sequential) else model.input)


def flat_outputs(model, x):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=False))]


def relative_difference(ours, theirs):
    """Largest difference over largest spread of an output; all outputs have to vary."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and np.isfinite(b).all() and b.std() > 1e-3, "the reference output does not vary"
        worst = max(worst, float(np.abs(a - b).max() / np.abs(b - b.mean()).max()))
    return worst
