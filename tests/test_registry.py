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
ADAPTER = """
from compressm import register_adapter
from compressm.families.lti.lru import LRUAdapter

@register_adapter("torch.nn.modules.linear.Identity", "torch.nn.modules.linear.Bilinear")
class TheirAdapter(LRUAdapter):
    family = "theirs"
"""
SCRIPT = """
import torch, compressm
from compressm.families import sites_in
from compressm.families.lti.lru import LRUAdapter

@compressm.register_adapter("torch.nn.modules.linear.Bilinear")
class MyAdapter(LRUAdapter):
    family = "mine"

assert "somebody" not in sys.modules
model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Bilinear(1, 1, 1))
print(*(site.adapter.family for site in sites_in(model).values()))
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


def install(folder, text):
    """A package of one file, with the metadata that names it."""
    (folder / "somebody.py").write_text(text)
    info = folder / "somebody-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[compressm]\nhalves = somebody\n")
    return f"import sys; sys.path.insert(0, {str(folder)!r})\n"


def test_recipes_know_what_an_installed_package_registers(tmp_path):
    code = (
        install(tmp_path, POLICY) + "from compressm.train import load_recipe\n"
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


def test_adapters_of_installed_packages_are_found_when_somebody_looks(tmp_path):
    """Not before; and what the script says itself goes before what a package says."""
    where = install(tmp_path, ADAPTER)
    code = where + SCRIPT
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["theirs", "mine"]
    (tmp_path / "somebody.py").write_text("import no_such_module")
    code = where + "import torch, compressm\ncompressm.measure(torch.nn.Linear(1, 1))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert "no compressible layer among Linear" in last
    assert "plug-in halves (somebody) cannot be imported" in last
    code = where + "import compressm\ncompressm.measure(compressm.nn.LRU(2, 3))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "UserWarning: the installed plug-in halves" in run.stderr


def test_a_plug_in_that_fails_in_any_way_does_not_stop_ours(tmp_path):
    where = install(tmp_path, "raise ValueError('no such device')")
    code = where + "import compressm\nprint(*compressm.measure(compressm.nn.LRU(2, 3)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "plug-in halves (somebody) cannot be imported: ValueError: no such device" in run.stderr


def test_the_command_line_imports_what_installed_packages_register(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("compressm.cli.require_plugins", lambda: asked.append("plug-ins"))
    with pytest.raises(SystemExit):
        main(["bench", "reproduce", "--folder", str(tmp_path)])
    assert asked == ["plug-ins"]
