"""The table maker lies beside the pages, not in the package."""

import sys

from tests.docs.pages import ROOT

sys.path.insert(0, str(ROOT / "docs"))
