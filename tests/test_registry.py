"""A new entry is one file with one decorator: in our folder, or in an installed package."""

import subprocess
import sys

import pytest

from compressm.cli import main
from compressm.errors import ConfigError
from compressm.registry import Registry

POLICY = """
from dataclasses import dataclass
from compressm.policies import Policy, register_policy

@register_policy("halves")
@dataclass(frozen=True)
class Halves(Policy):
    def validate(self): pass
    def targets(self, spectra):
        return {site: s.state_dim // 2 for site, s in spectra.items()}
"""
RECIPE = "compress.policy={name: halves}"


def test_files_of_the_folder_are_found_at_the_first_look(tmp_path, monkeypatch):
    folder = tmp_path / "our_folder"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from compressm.registry import Registry\nTABLE = Registry('thing', 'our_folder')\n"
    )
    (folder / "new.py").write_text("from our_folder import TABLE\nTABLE.register('new')(print)\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = __import__("our_folder").TABLE
    assert "our_folder.new" not in sys.modules
    assert table["new"] is table.find("new") is print
    assert list(table) == ["new"]


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    table = Registry("thing", "compressm.policies", error=ConfigError)
    table.register("first")(1)
    with pytest.raises(ConfigError, match=r"thing: got 'fisrt', expected one of first \(did you"):
        table.find("fisrt")
    with pytest.raises(ConfigError, match=r"arm\.thing: got None"):
        table.find(None, "arm.thing")
    with pytest.raises(ConfigError, match="'first' is registered already"):
        table.register("first")(2)


def test_recipes_know_what_an_installed_package_registers(tmp_path):
    (tmp_path / "somebody.py").write_text(POLICY)
    info = tmp_path / "somebody-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[compressm]\nhalves = somebody\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from compressm.train import load_recipe\n"
        f"config = load_recipe('digits-lru', [{RECIPE!r}])\n"
        "print(type(config.compress.build_policy()).__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "Halves"
    (tmp_path / "somebody.py").write_text("import no_such_module")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert "ConfigError" in last
    assert "plug-in halves (somebody) cannot be imported" in last


def test_the_command_line_imports_what_installed_packages_register(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("compressm.cli.import_plugins", lambda: asked.append("plug-ins"))
    with pytest.raises(SystemExit):
        main(["bench", "reproduce", "--folder", str(tmp_path)])
    assert asked == ["plug-ins"]
