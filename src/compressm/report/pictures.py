"""PNG files of figures, where the machine can draw them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import plotly.graph_objects as go

# Twice the pixels, so that text is sharp on dense screens.
_WIDTH, _SCALE = 960, 2


def write_png(figure: go.Figure, path: Path) -> str | None:
    """Draw `figure` into a PNG file; None, or in one sentence why that is not possible here."""
    if find_spec("kaleido") is None:
        return "kaleido is not installed (pip install kaleido)"
    try:
        figure.write_image(path, width=_WIDTH, scale=_SCALE)
    except (RuntimeError, ValueError, OSError) as error:  # no Chrome, an old kaleido, no answer
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[0].strip().rstrip(".") if lines else type(error).__name__
    return None
