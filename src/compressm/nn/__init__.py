"""Layers and models whose state dimension can shrink."""

from compressm.nn.block import GLU, Block
from compressm.nn.classifier import PairClassifier, SequenceClassifier, StreamState
from compressm.nn.encoder import SequenceEncoder
from compressm.nn.lru import LRU
from compressm.nn.registry import LAYERS, make_layer, register_layer, state_dims

__all__ = [
    "GLU",
    "LAYERS",
    "LRU",
    "Block",
    "PairClassifier",
    "SequenceClassifier",
    "SequenceEncoder",
    "StreamState",
    "make_layer",
    "register_layer",
    "state_dims",
]
