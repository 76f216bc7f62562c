"""What lives around a layer: modules that contain it, whoever made them and whenever.

A load can begin anywhere, on a layer alone or on a wrapper that nobody was told of. Containers are
therefore looked up among all modules that are alive, which takes about a tenth of a second and is
done only when something changes its shape.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compressm.runtime.living import living


class LiveModules:
    """All modules that are alive; some may be garbage that has not been collected.

    Args:
        known: modules to count in, with all below them, wherever they are kept.
    """

    def __init__(self, known: Iterable[nn.Module] = ()) -> None:
        found = {id(module): module for module in living(nn.Module) if "_modules" in vars(module)}
        found |= {id(inner): inner for module in known for inner in module.modules()}
        self.modules: list[nn.Module] = list(found.values())
        self._parents: dict[int, list[nn.Module]] = {}
        for module in self.modules:
            for child in module._modules.values():
                if child is not None:
                    self._parents.setdefault(id(child), []).append(module)

    def above(self, module: nn.Module) -> list[nn.Module]:
        """The modules that contain this one, nearest first."""
        found: dict[int, nn.Module] = {}
        level = [module]
        while level:
            parents = [p for inner in level for p in self._parents.get(id(inner), ())]
            level = [p for p in parents if id(p) not in found and p is not module]
            found |= {id(p): p for p in level}
        return list(found.values())

    def roots(self, module: nn.Module) -> list[nn.Module]:
        """The outermost of them; the module itself where nothing contains it."""
        return [m for m in (module, *self.above(module)) if id(m) not in self._parents]

    def wrappers(self, module: nn.Module) -> list[DistributedDataParallel]:
        """Those that reduce its gradients over several processes."""
        return [m for m in self.above(module) if isinstance(m, DistributedDataParallel)]
