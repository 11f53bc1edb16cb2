"""Dilated convolutions as one op of the file."""

from __future__ import annotations

from typing import Any

import keras


class DilatedConvolution(keras.layers.Layer):
    """Computes a dilated convolution by the one op that does.

    Keras goes through TensorFlow's `convolution`, which cuts the input into the phases of the dilation, and the
    converter then leaves bias and activation apart.

    Args:
        layer: A built `Conv1D`, `Conv2D` or `DepthwiseConv2D`, channels last; it becomes part of this one.
        **kwargs: Keyword arguments of `keras.layers.Layer`.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, input_shape: Any) -> None:
        """Has nothing to build: the layer is."""

    def call(self, inputs: Any) -> Any:
        """Returns what the layer computes."""
        import tensorflow as tf

        is_depthwise = isinstance(self.layer, keras.layers.DepthwiseConv2D)
        if is_depthwise and tf.executing_eagerly():  # not every processor has a kernel for the single op
            return self.layer(inputs)
        layer, padding, dilation = self.layer, self.layer.padding, tuple(self.layer.dilation_rate)
        kernel, flat = tf.convert_to_tensor(layer.kernel), len(dilation) == 1
        if padding == "causal":
            inputs = tf.pad(inputs, [(0, 0), (dilation[0] * (layer.kernel_size[0] - 1), 0), (0, 0)])
            padding = "valid"
        if flat:
            inputs, kernel, dilation = tf.expand_dims(inputs, 1), tf.expand_dims(kernel, 0), (1, *dilation)
        if is_depthwise:
            outputs = tf.raw_ops.DepthwiseConv2dNative(
                input=inputs, filter=kernel, strides=[1] * 4, padding=padding.upper(), dilations=[1, *dilation, 1]
            )
        else:
            outputs = tf.nn.conv2d(inputs, kernel, strides=1, padding=padding.upper(), dilations=dilation)
        if layer.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
        outputs = tf.squeeze(outputs, 1) if flat else outputs
        return outputs if layer.activation is None else layer.activation(outputs)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Returns the layer's output."""
        return self.layer.compute_output_spec(inputs)
