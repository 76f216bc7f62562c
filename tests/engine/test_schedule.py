import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressm import Schedule
from compressm.errors import InputError


def test_window_excludes_start_and_includes_stop():
    assert Schedule(start=0, stop=1000, every=250).steps == (250, 500, 750, 1000)
    assert Schedule(start=100, stop=399, every=100).steps == (200, 300)


@given(cuts=st.integers(1, 20), start=st.integers(0, 50), length=st.integers(20, 5000))
def test_spaced_fires_exactly_k_times_inside_the_window(cuts, start, length):
    schedule = Schedule.spaced(cuts=cuts, start=start, stop=start + length)
    assert len(schedule.steps) == cuts
    assert schedule.steps[-1] == start + length
    gaps = [b - a for a, b in zip((start, *schedule.steps), schedule.steps, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_next_after():
    schedule = Schedule.at(3, 7)
    assert [schedule.next_after(s) for s in (0, 3, 6, 7)] == [3, 7, 7, None]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Schedule(start=0, stop=10, every=11), "never cuts"),
        (lambda: Schedule(start=0, stop=10, every=0), "every=0"),
        (lambda: Schedule(start=-1, stop=10), "start=-1"),
        (lambda: Schedule.spaced(cuts=0, stop=10), "got 0"),
        (lambda: Schedule.spaced(cuts=11, stop=10), "got 11"),
        (lambda: Schedule.at(), "at least one"),
        (lambda: Schedule.at(5, 3), "increasing"),
        (lambda: Schedule.at(0), "from 1"),
    ],
)
def test_unusable_schedules_are_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()
