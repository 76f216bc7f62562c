"""What is alive is found by its type, and asked nothing."""

import gc

from torch import nn

from compressm.runtime.living import living


class Proxy:
    """Says that it is something else, and does not like to be asked."""

    @property
    def __class__(self):
        raise RuntimeError("asked")


def test_objects_of_a_type_and_below_are_found_wherever_they_are():
    class Mine(nn.Module):
        pass

    class Below(Mine):
        pass

    kept = {"deep": [Mine(), (Below(),)]}
    proxy = Proxy()
    assert {type(found) for found in living(Mine)} == {Mine, Below}
    assert {id(found) for found in living(Mine)} == {id(kept["deep"][0]), id(kept["deep"][1][0])}
    del kept
    gc.collect()
    assert living(Mine) == []
    assert type(proxy) is Proxy
