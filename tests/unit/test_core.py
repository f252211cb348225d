from __future__ import annotations

import pytest

from kqs.core import _ttr_s
from kqs.options import Cascade


@pytest.mark.parametrize(
    ("options", "ttr_s"), [(None, 7.0), (b'{"ttr":5}', 5.0), (b'{"ttr":', 7.0), (b'{"ttr":"5"}', 7.0), (b'{"\xff":5}', 7.0)]
)
def test_the_ttr_of_a_waiting_job_is_known_whatever_its_options_hold(options: bytes | None, ttr_s: float) -> None:
    assert _ttr_s(Cascade({"ttr": 7.0}, {}), "mail", options) == ttr_s
