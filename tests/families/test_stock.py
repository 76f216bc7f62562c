"""Cut models as transformers alone sees them: configuration, save_pretrained, generate."""

import json
import subprocess
import sys

import pytest
import torch

from compressm import FixedFraction, FixedRank, compress_, load_compressed
from compressm.errors import CheckpointError, InputError
from compressm.families import find_sites
from compressm.policies import Policy
from tests.families import mambas

pytest.importorskip("transformers")
FULL, CUT = 12, 5

# One process for all families: the import of transformers takes seconds.
READER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM

for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.tensor(json.load(open(folder + "/tokens.json")))
    made = model.generate(tokens, max_new_tokens=4, do_sample=False)
    torch.save((model(tokens).logits, made), folder + "/seen.pt")
assert "compressm" not in sys.modules
"""


class Uneven(Policy):
    """A different rank for every layer."""

    def validate(self):
        pass

    def targets(self, spectra):
        return {site: CUT + i for i, site in enumerate(spectra)}


def tokens():
    return torch.randint(3, mambas.VOCABULARY, (3, 14), generator=torch.Generator().manual_seed(1))


def state_size(model, family):
    return getattr(model.config, mambas.FAMILIES[family][1])


def test_uniform_cuts_load_without_us(tmp_path):
    folders, expected = [], {}
    for family in mambas.FAMILIES:
        model = mambas.language_model(family, FULL, layers=3).eval()
        compress_(model, policy=Uneven(), data=[tokens()], uniform=True)
        sites = find_sites(model)
        assert len(sites) > 1
        assert {site.state_dim for site in sites.values()} == {CUT + len(sites) - 1}
        assert state_size(model, family) == CUT + len(sites) - 1
        folder = tmp_path / family
        model.save_pretrained(folder)
        prompt = tokens()[:2]
        (folder / "tokens.json").write_text(json.dumps(prompt.tolist()))
        with torch.no_grad():
            made = model.generate(prompt, max_new_tokens=4, do_sample=False)
            expected[family] = model(prompt).logits, made
        folders.append(str(folder))
    subprocess.run([sys.executable, "-c", READER, *folders], check=True, capture_output=True)
    for family, (logits, made) in expected.items():
        seen_logits, seen_made = torch.load(tmp_path / family / "seen.pt")
        torch.testing.assert_close(seen_logits, logits)
        assert torch.equal(seen_made, made), family


@pytest.mark.parametrize("family", ["Mamba", "Jamba", "FalconH1", "NemotronH"])
def test_uneven_cuts_load_from_a_saved_folder(family, tmp_path):
    model = mambas.language_model(family, FULL, layers=3).eval()
    sites = find_sites(model)
    compress_(model, policy=Uneven(), data=[tokens()])
    assert [site.state_dim for site in sites.values()] == [CUT + i for i in range(len(sites))]
    assert state_size(model, family) == FULL  # no one number is right
    model.save_pretrained(tmp_path)
    fresh = mambas.language_model(family, FULL, layers=3).eval()
    load_compressed(fresh, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(fresh(tokens()).logits, model(tokens()).logits, rtol=0, atol=0)
        made = [m.generate(tokens(), max_new_tokens=3, do_sample=False) for m in (fresh, model)]
    assert torch.equal(*made)


def test_layers_that_come_to_agree_are_in_the_configuration_again():
    model = mambas.language_model("Mamba", FULL, layers=3)
    compress_(model, policy=Uneven(), data=[tokens()])
    assert model.config.state_size == FULL
    compress_(model, policy=FixedRank(CUT), data=[tokens()])
    assert model.config.state_size == CUT


def test_a_sharded_folder_loads(tmp_path):
    model = mambas.language_model("Mamba", FULL, layers=3).eval()
    compress_(model, policy=FixedRank(CUT), data=[tokens()])
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    fresh = mambas.language_model("Mamba", FULL, layers=3).eval()
    load_compressed(fresh, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(fresh(tokens()).logits, model(tokens()).logits, rtol=0, atol=0)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="safetensors"):
        load_compressed(mambas.language_model("Mamba", FULL), tmp_path)


def test_masked_tokens_do_not_count():
    """Padding on the left, whatever is in it, changes neither the choice nor the refit."""
    cuts = []
    for junk in (3, 40):
        torch.manual_seed(0)
        model = mambas.language_model("Mamba", FULL).eval()
        batch, mask = tokens(), torch.ones(3, 14, dtype=torch.long)
        batch[1, :6], mask[1, :6] = junk, 0
        compress_(model, policy=FixedRank(CUT), data=[{"input_ids": batch, "attention_mask": mask}])
        cuts.append(model.state_dict())
    torch.testing.assert_close(*cuts, rtol=1e-5, atol=1e-6)


def test_methods_that_a_family_cannot_store_say_why():
    model = mambas.language_model("Mamba2", FULL)
    with pytest.raises(InputError, match="SiLU"):
        compress_(model, policy=FixedRank(CUT), method="greedy-refit", data=[tokens()])
    model = mambas.language_model("Jamba", FULL)
    with pytest.raises(InputError, match="norm"):
        compress_(model, policy=FixedFraction(0.5), method="greedy-refit", data=[tokens()])


def test_what_uniform_was_called_is_refused():
    with pytest.raises(InputError, match=r"rank: .*write uniform=True"):
        compress_(mambas.language_model("Mamba", FULL), policy=FixedRank(CUT), rank="uniform")
