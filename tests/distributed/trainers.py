"""What trainers of other libraries look for before they use the processes that are there."""

import os
import warnings
from contextlib import contextmanager


@contextmanager
def as_launched(rank):
    """As if a launcher had started this rank; their own warnings are not ours."""
    said = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    said |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}  # the group is there already
    before = dict(os.environ)
    os.environ.update({key: str(value) for key, value in said.items()})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", module="compressm")
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
