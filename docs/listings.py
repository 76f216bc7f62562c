"""Tables of what the code offers, read from its registries, so that they cannot fall behind."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from parts import PARTS

import compressm
from compressm.data import available, known_options
from compressm.families import registered
from compressm.families.lti import DEFAULT_METHOD, METHODS, LinearMethod
from compressm.families.lti.bases import BASES
from compressm.families.lti.refits import REFITS
from compressm.families.lti.sources import CONTROLLABILITY, OBSERVABILITY
from compressm.families.matrix_state import METHODS as SELECTIVE
from compressm.families.matrix_state.adapter import MatrixStateAdapter
from compressm.families.matrix_state.corrections import CORRECTIONS
from compressm.families.matrix_state.orders import ORDERS
from compressm.families.matrix_state.orders.contributions import ByContributions
from compressm.policies import POLICIES, Policy
from compressm.train import BlocksConfig, bundled_recipes, load_recipe
from compressm.writeback.state_keys import TABLE, Kind

ROOT = Path(__file__).parents[1]


def methods() -> list[str]:
    """The names of the methods of LTI layers, in their order."""
    return list(METHODS)


def _needs(method: LinearMethod) -> str:
    if method.observability == "gradient":
        return "data and loss"
    return "data" if method.needs_data else "nothing"


def method_table() -> str:
    """What each named method does and needs."""
    default = {name: given for given, name in DEFAULT_METHOD.items()}
    when = {
        "nothing": " (auto, without data)",
        "data": " (auto, with data)",
        "loss": " (auto, with data and loss)",
    }
    rows = []
    for name, m in METHODS.items():
        mark = when[default[name]] if name in default else ""
        moments = m.basis == "modes" and not REFITS[m.refit].of_modes
        refit = "with the moments that chose them" if moments else REFITS[m.refit].label
        basis, sources = BASES[m.basis].label, ("–", "–")
        if BASES[m.basis].bounded:
            basis += f", {'real map' if m.real_pairs else 'complex system'}"
        if BASES[m.basis].balances:
            sources = (
                CONTROLLABILITY[m.controllability].label,
                OBSERVABILITY[m.observability].label,
            )
        bound = "yes" if m.guaranteed else "no"
        rows.append([f"`{name}`{mark}", *sources, basis, refit, _needs(m), bound])
    columns = ["method", "P from", "Q from", "basis", "refit", "needs", "bound holds"]
    return table(columns, rows)


def selective_method_table() -> str:
    """What each named method of selective layers does, and which kinds of layer have it."""
    kinds = {
        adapter.family: adapter
        for adapter in registered().values()
        if isinstance(adapter, MatrixStateAdapter)
        and type(adapter).__module__.startswith("compressm.")
    }
    rows = []
    for name, m in SELECTIVE.items():
        auto = [kind for kind, adapter in kinds.items() if adapter.default == name]
        if name == "balanced":
            auto += [f"{kind} without convolutions" for kind, a in kinds.items() if a.any_basis]
        have = [kind for kind, adapter in kinds.items() if name in adapter.methods]
        mark = f" (auto: {', '.join(auto)})" if auto else ""
        needs = "data and loss" if m.weigh == "gradient" else "data" if m.needs_data else "nothing"
        looks = issubclass(ORDERS[m.order], ByContributions)
        weigh = m.weigh if looks else "–"
        made_up = "nothing" if m.correct is None else CORRECTIONS[m.correct].label
        lack = [kind for kind in kinds if kind not in have]
        few = f"all but {', '.join(lack)}" if len(lack) < len(have) else ", ".join(have)
        has = few if lack else "all"
        rows.append([f"`{name}`{mark}", ORDERS[m.order].label, weigh, made_up, needs, has])
    columns = ["method", "chosen by", "compared at", "made up by", "needs", "layers"]
    return table(columns, rows)


def policy_table() -> str:
    """Name in recipes, class, and the settings of its own."""
    rows = []
    names = {cls: f"`{name}`" for name, cls in POLICIES.items()}
    public = (getattr(compressm, name) for name in compressm.__all__)
    for cls in public:
        if not (isinstance(cls, type) and issubclass(cls, Policy)) or cls is Policy:
            continue
        shared = {"min_rank", "multiple_of", "gate"}
        own = [f for f in dataclasses.fields(cls) if f.name not in shared]
        settings = ", ".join(f"`{f.name}`{_default(f)}" for f in own)
        rows.append([f"`{cls.__name__}`", names.get(cls, "–"), settings, _summary(cls)])
    return table(["class", "name in recipes", "settings", "rule"], rows)


_KINDS = {
    Kind.GRADIENT: "an estimate of gradients",
    Kind.SQUARE: "an estimate of their squares",
    Kind.MAGNITUDE: "an estimate of their size",
    Kind.WEIGHT: "a copy of the weights",
    Kind.STEP: "a size of steps, entry by entry",
    Kind.UNKNOWN: "unknown, of the parameter's shape",
}


def optimizer_state_table() -> str:
    """What the tensors beside a parameter can be, and what a cut does to each kind."""
    return table(["what it is", "after a cut it"], ([_KINDS[k], k.value] for k in Kind))


def optimizer_key_table() -> str:
    """Which keys say what."""
    rows = [[f"`{e.key}`{_whose(e.only)}", e.optimizers, _KINDS[e.kind]] for e in TABLE]
    return table(["key", "written by", "what it is"], rows)


def _whose(classes: Sequence[str]) -> str:
    return f" of {' and '.join(classes)} only" if classes else ""


def data_table() -> str:
    """The registered data sets."""
    rows = [
        [f"`{name}`", text, ", ".join(f"`{key}`" for key in known_options(name)) or "–"]
        for name, text in available().items()
    ]
    return table(["name", "what it is", "options"], rows)


def recipe_table() -> str:
    """The bundled recipes with their sizes, and the comment at their top."""
    rows = []
    for name, path in bundled_recipes().items():
        c = load_recipe(path)
        layer = c.model.layer if isinstance(c.model, BlocksConfig) else c.model.kind
        model = f"{c.model.depth} × {layer} (H={c.model.width}, N={c.model.state_dim})"
        cuts = "–"
        if c.compress is not None:
            policy = c.compress.build_policy()
            cuts = f"{c.compress.cuts} × `{type(policy).__name__}`"
        steps = f"{c.trainer.steps:,} × {c.trainer.batch_size}"
        rows.append([f"`{name}`", _comment(path), f"`{c.data.name}`", model, steps, cuts])
    return table(["recipe", "what it is", "data", "layers", "steps × batch", "cuts"], rows)


_EXTRAS = {
    "cli": "the command line",
    "data": "the data sets",
    "report": "pages and pictures of runs",
    "train": "`compressm train`, the Lightning callback",
    "monitor": "following spectra over training (`Monitor`, `WhenSettled`)",
    "transformers": "Mamba models, the callback for the Hugging Face Trainer",
    "accelerate": "loops with Accelerate",
    "tensorboard": "`trainer.tensorboard` of a recipe, TensorBoard in Lightning's loggers",
    "bench": "other people's code in `compressm bench mamba`",
    "export": "`compressm export` to ONNX files",
    "executorch": "`compressm export` to ExecuTorch files",
    "testing": "the conformance suite for layer families of your own, `compressm.testing`",
    "energy": "joules of every run, by recipe or of an experiment",
    "docs": "building these pages",
    "dev": "working on compressm",
}


def extras_table() -> str:
    """The optional dependencies of pyproject.toml; each of them needs a word here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = []
    for name, needs in project["optional-dependencies"].items():
        brings = [f"`{one}`" if inner else one for need in needs for one, inner in _needed(need)]
        rows.append([f"`{name}`", _EXTRAS[name], ", ".join(brings)])
    return table(["extra", "for", "brings"], rows)


def _needed(requirement: str) -> list[tuple[str, bool]]:
    """Names of what a requirement asks for, and whether they are extras of ours."""
    name, _, extras = re.split("[<>=]", requirement)[0].partition("[")
    if name == "compressm":
        return [(extra, True) for extra in extras.rstrip("]").split(",")]
    return [(name, False)]


def family_table() -> str:
    """The registered layer families, and the layers that each of them knows."""
    layers: dict[type, list[str]] = {}
    for key, adapter in registered().items():
        full = key if isinstance(key, str) else f"{key.__module__}.{key.__qualname__}"
        package, _, name = full.partition(".")[0], "", full.rpartition(".")[2]
        own = "compressm.nn" if package == "compressm" else package
        layers.setdefault(type(adapter), []).append(f"`{name}` ({own})")
    rows = [
        [cls.family, _summary(cls), ", ".join(names)]
        for cls, names in layers.items()
        if cls.__module__.startswith("compressm.")
    ]
    return table(["family", "what a cut does", "layers"], rows)


def part_table() -> str:
    """The parts of the package, what they are for, and what of ours they may import."""
    package, rows = Path(compressm.__file__).parent, []
    for name, allowed in PARTS.items():
        folder = package / name
        file = folder / "__init__.py" if folder.is_dir() else package / f"{name}.py"
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        first = " ".join(text.split("\n\n")[0].split())
        rows.append([f"`{name}`", first, ", ".join(f"`{one}`" for one in sorted(allowed)) or "–"])
    return table(["part", "what it is", "imports of ours"], rows)


def _comment(path: Path) -> str:
    """The comment that a recipe begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ") for line in lines[:first])


def _default(field: dataclasses.Field[Any]) -> str:
    return "" if field.default is dataclasses.MISSING else f" = {field.default}"


def _summary(cls: type) -> str:
    first = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return " ".join(first.split()).rstrip(".")


def loop_block() -> str:
    """The training loop of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split("<!-- loop -->\n")[1].split("<!-- /loop -->")[0].strip()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


LISTINGS: dict[str, Callable[[], str]] = {
    "extras": extras_table,
    "families": family_table,
    "parts": part_table,
    "methods": method_table,
    "selective-methods": selective_method_table,
    "policies": policy_table,
    "data": data_table,
    "optimizer-state": optimizer_state_table,
    "optimizer-keys": optimizer_key_table,
    "recipes": recipe_table,
}
# What is no table, and is repeated all the same.
BLOCKS: dict[str, Callable[[], str]] = {"loop": loop_block}
