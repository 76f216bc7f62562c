"""Formats of deployment, one file each."""

from compressm.export.formats.base import FORMATS, INT8, Format, Run, register_format, register_int8

__all__ = ["FORMATS", "INT8", "Format", "Run", "register_format", "register_int8"]
