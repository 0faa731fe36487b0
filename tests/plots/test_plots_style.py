"""The figures' settings stay inside their block."""

import matplotlib
import pytest

from skillneurons.plots import style


@pytest.mark.parametrize("switched_on", [True, False])
def test_interactive_mode_stays_as_the_backend_left_it(switched_on):
    before = matplotlib.is_interactive()
    try:
        with style():
            matplotlib.interactive(switched_on)  # what Jupyter's backend does when the first figure loads it
        assert matplotlib.is_interactive() == switched_on
    finally:
        matplotlib.interactive(before)


def test_other_settings_are_restored_also_after_an_error():
    size = matplotlib.rcParams["font.size"]
    with pytest.raises(ZeroDivisionError), style():
        matplotlib.rcParams["font.size"] = 1 / 0
    assert matplotlib.rcParams["font.size"] == size
