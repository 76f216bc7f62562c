"""An experiment is spelled out as runs that know their whole configuration."""

from pathlib import Path

import pytest

from compressm.errors import ConfigError
from compressm.experiments import Definition, load_definition

ROOT = Path(__file__).parents[2] / "experiments"
ARMS = {
    "full": {"kind": "full", "trunks": [0.1, 0.5]},
    "cut": {"kind": "cut", "kept": [6, 3], "method": ["published", "modes-h2"], "batches": 2},
}


def definition(**changes):
    settings = {"name": "tiny", "question": "?", "recipe": "digits-lru", "seeds": [0, 1]}
    return Definition(**{**settings, "arms": ARMS, **changes})


def test_lists_are_axes_unless_the_kind_wants_a_list():
    runs = definition().runs()
    assert [run.arm for run in runs] == ["full"] * 2 + ["cut"] * 8
    assert runs[0].kind.trunks == [0.1, 0.5]
    axes = [tuple(run.axes.values()) for run in runs if run.arm == "cut" and run.seed == 0]
    assert axes == [(6, "published"), (6, "modes-h2"), (3, "published"), (3, "modes-h2")]
    assert runs[2].name == "cut-kept-6-method-published-seed-0"


def test_policies_are_an_axis_that_file_names_can_say():
    levels = [{"name": "energy", "tolerance": 0.1}, {"name": "rank", "rank": 3}]
    runs = definition(arms={"cut": {"kind": "cut", "policy": levels}}, seeds=[0]).runs()
    assert [run.kind.policy for run in runs] == levels
    assert runs[0].name == "cut-policy-energy-0.1-seed-0"


def test_a_seed_is_that_of_model_and_data():
    for run in definition().runs():
        assert run.config.seed == run.config.data.seed == run.seed


def test_any_setting_makes_another_run():
    plain = definition().runs()
    others = [
        definition().runs(overrides=["trainer.steps=20"]),
        definition(threads=2).runs(),
        definition(arms={**ARMS, "cut": {**ARMS["cut"], "batches": 3}}).runs(),
    ]
    assert plain[2].fingerprint == definition().runs()[2].fingerprint
    assert len({runs[2].fingerprint for runs in (plain, *others)}) == 4
    assert len({run.fingerprint for run in plain}) == len(plain)


VARIANTS = {"as it is": [], "s5": ["model.layer=s5", "model.depth=1"]}


def test_variants_of_the_recipe_are_an_axis_of_all_arms_or_of_those_they_name():
    arms = {"full": {"kind": "full"}, "cut": {**ARMS["cut"], "variants": ["s5"], "kept": 3}}
    runs = definition(arms=arms, variants=VARIANTS, seeds=[0]).runs()
    assert [run.axes for run in runs] == [
        {"variant": "as it is"},
        {"variant": "s5"},
        {"variant": "s5", "method": "published"},
        {"variant": "s5", "method": "modes-h2"},
    ]
    assert [run.config.model.layer for run in runs] == ["lru", "s5", "s5", "s5"]
    assert len({run.trunk_fingerprint for run in runs}) == 2
    plain, *_ = definition(arms=arms | {"cut": ARMS["cut"]}, seeds=[0]).runs()
    assert runs[0].fingerprint == plain.fingerprint


def test_overrides_come_before_variants_and_those_of_the_call_after():
    made = definition(overrides=["model.depth=3", "model.width=5"], variants=VARIANTS)
    for call, depths in (([], [3, 1]), (["model.depth=4"], [4, 4])):
        runs = made.runs([0], call)
        assert [run.config.model.depth for run in runs[:2]] == depths
        assert {run.config.model.width for run in runs} == {5}


def test_variants_that_are_not_there_are_told():
    arms = {"cut": {**ARMS["cut"], "variants": ["as it si"]}}
    with pytest.raises(
        ConfigError, match=r"arm cut: variants: got 'as it si', .*did you mean 'as it is'"
    ):
        definition(arms=arms, variants=VARIANTS)
    with pytest.raises(ConfigError, match="variants: got 's5', expected list"):
        definition(arms={"cut": {**ARMS["cut"], "variants": "s5"}}, variants=VARIANTS)
    with pytest.raises(ConfigError, match="expected a recipe to vary"):
        definition(arms={"idle": {"kind": "idle-step"}}, variants=VARIANTS, recipe=None)


def test_a_result_is_of_a_run_only_with_the_same_settings_throughout():
    run = definition().runs()[2]
    stored = {"fingerprint": run.fingerprint, **run.describe()}
    assert run.made(stored)
    # A setting that came later is not in old files.
    del stored["configuration"]["optim"]["floor"]
    assert run.made(stored)
    # The default of a setting was another when the file was made.
    stored["configuration"]["optim"]["clip"] = 1.0
    assert not run.made(stored)
    assert not run.made({**stored, "fingerprint": "0"})


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ({"a": {"kind": "ful"}}, "did you mean 'full'"),
        ({"a": {"kept": 3}}, "kind: expected one of"),
        ({"a": {"kind": "scratch"}}, "the key 'kept' is missing"),
        ({"a": {"kind": "scratch", "kept": 3, "metod": "x"}}, "unknown key 'metod'"),
        ({"a": {"kind": "cut"}}, "either kept or policy"),
        ({"a": {"kind": "cut", "kept": 3, "at": 1.5}}, "expected a share"),
        ({"a": {"kind": "cut", "kept": "six"}}, "kept: got 'six'"),
        ({"a": {"kind": "cut", "policy": {"name": "energi"}}}, "did you mean 'energy'"),
        ({"a": {"kind": "full", "trunks": [2.0]}}, "trunks: expected shares"),
        ({"a": {"kind": "steps", "kept": 0}}, "kept: got 0"),
        ({"a": {"kind": "steps", "kept": 3, "at": 0.0}}, "expected a share"),
        ({}, "at least one seed and one arm"),
    ],
)
def test_slips_are_told(arms, told):
    with pytest.raises(ConfigError, match=told):
        definition(arms=arms).runs()


def test_an_unusable_file_is_named(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text("question: what?\nrecipe: nothing-like-it\narms: {full: {kind: full}}\n")
    with pytest.raises(ConfigError, match=r"odd\.yaml: there is no recipe"):
        load_definition(path)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_definitions_of_the_repository_are_sound(path):
    found = load_definition(path)
    names = [run.name for run in found.runs()]
    assert len(set(names)) == len(names)
    assert found.question.rstrip().endswith((".", "?"))
