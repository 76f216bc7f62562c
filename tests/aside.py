"""What imports have made is set aside: half a million objects that a cut need not look through.

What tests make comes later; it is looked through for optimizers and modules, as in any process.
"""

import gc
import sys

_imported = 0


def set_aside_imports():
    """To be called between tests; does nothing where hardly anything was imported since."""
    global _imported
    if len(sys.modules) > _imported + 20:
        gc.collect()
        gc.freeze()
        _imported = len(sys.modules)
