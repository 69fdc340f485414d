"""Options of `evaluate` and `tune` that there are not: refused before anything is sent."""

from __future__ import annotations

import pytest

from upweight import Client
from upweight.errors import InvalidRequest

NOWHERE = "http://127.0.0.1:1"


def test_a_misspelt_option_is_refused_with_the_nearest() -> None:
    with Client(NOWHERE) as client:
        with pytest.raises(InvalidRequest, match="no option 'recipie'; did you mean 'recipe'"):
            client.evaluate("job_" + "0" * 26, recipie={})  # type: ignore[call-arg]
        with pytest.raises(InvalidRequest, match="no option 'repeat'; did you mean 'repeats'"):
            client.tune("net", "train", "test", repeat=3)  # type: ignore[call-arg]
