"""What a format of deployment must offer, and the open registry of formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from compressm.errors import ConfigError
from compressm.export.graphs import FORMS, Form, Graph
from compressm.registry import Registry

Run = Callable[[Sequence[Tensor]], list[Tensor]]
"""A graph that was read again: its arguments to its results, on one core."""


class Format(ABC):
    """A kind of file; a subclass under `register_format` is found by its name.

    Attributes:
        suffix: of its files.
        extra: of compressm, with what it needs.
        forms: of graphs that it can hold.
        single: files hold one stream, and not any number side by side.
    """

    suffix: ClassVar[str]
    extra: ClassVar[str] = "export"
    forms: ClassVar[tuple[Form, ...]] = FORMS
    single: ClassVar[bool] = False

    @abstractmethod
    def encode(self, graph: Graph) -> bytes:
        """The content of the file, in float32.

        Raises:
            MissingExtraError: what the format needs is not installed.
            ConfigError: the format cannot hold this graph.
        """

    @abstractmethod
    def read(self, content: bytes) -> Run:
        """What such a file computes, by the runtime that devices use."""


FORMATS: Registry[type[Format]] = Registry("format", "compressm.export.formats", error=ConfigError)
register_format = FORMATS.register
"""Class decorator with a name: `compressm export --format NAME` gets this class."""

INT8: Registry[Callable[[bytes], bytes]] = Registry(
    "format with weights of 8 bits", "compressm.export.formats", error=ConfigError
)
register_int8 = INT8.register
"""Decorator with a format's name: a file in float32 to one whose products have 8-bit weights."""
