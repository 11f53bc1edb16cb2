"""Synthetic training samples: drawn from the real ones, made in a model's features, or augmented once."""

from bigmodel.data.synthesis.embedding import Embedding, embed
from bigmodel.data.synthesis.synthesis import METHODS, Synthesis, synthesize, synthesize_features

__all__ = ["METHODS", "Embedding", "Synthesis", "embed", "synthesize", "synthesize_features"]
