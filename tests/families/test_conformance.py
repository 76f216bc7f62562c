"""What every layer family must do, whatever its dynamics: `compressm.testing` over all of ours."""

import pytest

from compressm.testing import conformance
from compressm.testing.training import Training
from tests.families.conformance import CASES

pytestmark = pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")

TestFamilies = conformance(CASES)


@pytest.mark.parametrize("method", CASES["LRU"].every_method)
@pytest.mark.parametrize("select", ["smallest", "random"])
def test_every_basis_takes_any_selection(method, select):
    test = Training().test_every_method_cuts_the_state_and_training_goes_on
    test(CASES["LRU"], method, select)
