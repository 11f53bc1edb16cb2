"""One run of `compress_and_tune`: its plan, its journal, the files that compete in it, and its end.

`native` and `legacy` know the order of the steps, of a Keras 3 and of a tf_keras model.
"""
