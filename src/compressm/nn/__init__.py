"""Layers and models whose state dimension can shrink."""

from compressm.nn.block import GLU, Block
from compressm.nn.classifier import PairClassifier, SequenceClassifier, StreamState
from compressm.nn.dss import DSS
from compressm.nn.encoder import SequenceEncoder
from compressm.nn.linoss import LinOSS
from compressm.nn.lru import LRU
from compressm.nn.registry import LAYERS, make_layer, register_layer, state_dims
from compressm.nn.s4d import S4D
from compressm.nn.s5 import S5

__all__ = [
    "DSS",
    "GLU",
    "LAYERS",
    "LRU",
    "S4D",
    "S5",
    "Block",
    "LinOSS",
    "PairClassifier",
    "SequenceClassifier",
    "SequenceEncoder",
    "StreamState",
    "make_layer",
    "register_layer",
    "state_dims",
]
