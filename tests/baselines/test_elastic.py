"""The elastic baseline: another size at the start, and one rule that grows and cuts."""

import pytest

from compressm.baselines.elastic import ElasticSize
from compressm.errors import ConfigError
from compressm.policies import Elastic
from tests.baselines.common import recipe, trained


def test_it_starts_at_its_own_size_and_ends_where_the_rule_says():
    config = recipe("trainer.steps=40")
    baseline = ElasticSize(states=3, tolerance=1e-6, full=0.2, most=7, points=4, until=0.5)
    run = baseline.configure(config)
    assert run.model.state_dim == 3
    assert run.compress.build_schedule(40).steps == (5, 10, 15, 20)
    policy = run.compress.build_policy()
    assert policy == Elastic(1e-6, full=0.2, factor=1.5, max_rank=7)
    _, live = trained(baseline, config, steps=21)
    sizes = [event.sites[0].after for event in live.compressor.events]
    assert sizes == [5, 7, 7, 7]
    assert [event.kind for event in live.compressor.events] == ["grow", "grow", "kept", "kept"]


def test_without_a_limit_the_policy_has_none():
    config = recipe("trainer.steps=40")
    assert ElasticSize(states=3).configure(config).compress.build_policy().max_rank is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"states": 0}, "states"), ({"points": 0}, "points"), ({"until": 0.0}, "until")],
)
def test_unusable_settings_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        ElasticSize(**{"states": 4, **settings})
