"""What a stored run was: ours by default, ours in another way, or somebody else's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import rival_tables
from summaries import Json, Result

from compressm.numerics.matrix_state.fitting import FIT_DAMPING

# What each kind of layer is cut by where nothing else is said and a loss is given.
DEFAULTS = ("gradient-data", "greedy-fit", "elimination-fit", "balanced")
# Settings of a cut that leave it the default, where a file has them; old files have not all.
_PLAIN: dict[str, Any] = {
    "at": 0.1,
    "cuts": 1,
    "select": "largest",
    "transport": "project",
    "go_on": True,
    "guard": None,
    "policy": None,
    "joint_fit": 0,
}


def is_ours(result: Result) -> bool:
    """Whether it is one cut at 10 % of the steps by the default, and trained on."""
    return _is_plain(result) and result["settings"].get("fit_damping") is None


def is_ours_again(result: Result) -> bool:
    """Whether it says a setting that is the default's, and so is the default once more."""
    return _is_plain(result) and result["settings"].get("fit_damping") == FIT_DAMPING


def is_own(result: Result) -> bool:
    """Whether it is cut by a default, at whatever time and with whatever else."""
    settings = result["settings"]
    way = settings.get("method") in DEFAULTS and settings.get("select", "largest") == "largest"
    return result["kind"] in ("cut", "settled") and way


def _is_plain(result: Result) -> bool:
    settings = result["settings"]
    return (
        result["kind"] == "cut"
        and settings.get("method") in DEFAULTS
        and all(settings.get(key, value) == value for key, value in _PLAIN.items())
    )


def seeds(results: Iterable[Result]) -> set[int]:
    """All that an experiment has begun; its full models are made first, for every seed."""
    return {result["seed"] for result in results}


def ends(result: Result) -> bool:
    """Whether it was trained to its end, with an accuracy there."""
    last = result["figures"].get("last", {})
    return "test_accuracy_percent" in result["figures"].get("chosen", last)


def states(result: Result) -> int:
    """Of the full model."""
    return int(result["configuration"]["model"]["state_dim"])


def kept(result: Result) -> int:
    """States that every layer ends with; 0 where a policy chose them."""
    found: Any = {**result["settings"], **result["axes"]}.get("kept")
    return found if isinstance(found, int) else 0


def variant(result: Result) -> str | None:
    """Which variant of the recipe it is, where there are several."""
    found: str | None = result["axes"].get("variant")
    return found


def test_accuracy(result: Result) -> float:
    """In percent, of the model that validation chose; old files have the last one alone."""
    return float(_chosen(result)["test_accuracy_percent"])


def test_figure(result: Result) -> float:
    """On the test part, the higher the better: what the model was chosen by on validation data.

    Language models are chosen by their loss, so that is its negative in nats; all others by
    accuracy, in percent.
    """
    chosen = _chosen(result)
    return -float(chosen["test_loss_nats"]) if in_nats(result) else test_accuracy(result)


def in_nats(result: Result) -> bool:
    """Whether the loss chooses among its models."""
    data = result["configuration"].get("data", {})
    return bool(data.get("name") == "byte_lm")


def _chosen(result: Result) -> Mapping[str, Any]:
    figures: Mapping[str, Any] = result["figures"]
    return figures.get("chosen", figures["last"])


def named(result: Result) -> str:
    """The way by its name; a cut by what it differs in from our default."""
    axes = {k: v for k, v in result["axes"].items() if k not in ("kept", "variant")}
    if result["kind"] == "settled":
        return "cut when the ranks have settled"
    if result["kind"] != "cut":
        return rival_tables.name({"arm": _arm(result), "axes": axes}, {})
    at = 100 * result["settings"].get("at", 0.1)
    when = "cut after training" if at == 100 else f"cut at {at:.0f} %"
    return ", ".join([when, *_settings(result)])


def _arm(result: Result) -> str:
    return "scratch" if result["kind"] == "scratch" else str(result["arm"])


def _settings(result: Result) -> list[str]:
    settings: Json = {**_PLAIN, "fit_damping": None, **result["settings"]}
    said = [] if settings["method"] in DEFAULTS else [f"`{settings['method']}`"]
    if settings["cuts"] > 1:
        said.append(f"the last of {settings['cuts']} cuts")
    if settings["transport"] != "project":
        said.append(
            {"slice": "moments as published", "reset": "new moments"}[settings["transport"]]
        )
    if settings["select"] != "largest":
        wrong = {"random": "random directions", "smallest": "largest go first"}
        said.append(wrong[settings["select"]])
    if settings["joint_fit"]:
        said.append("joint fit")
    if settings["fit_damping"] is not None:
        said.append(f"damping {settings['fit_damping']:g}")
    return said
