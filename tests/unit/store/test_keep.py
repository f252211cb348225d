from __future__ import annotations

import pytest

from kqs.store.keep import own_keep_s


@pytest.mark.parametrize(
    ("options", "kept_s"),
    [(None, 9.0), (b'{"ttr":1}', 9.0), (b'{"keep":3}', 3.0), ('{"keep":3}', 3.0), (b'{"keep":-1}', None), (b'{"keep":0}', 0.0)],
)
def test_a_jobs_own_keep_comes_first(options: bytes | str | None, kept_s: float | None) -> None:
    assert own_keep_s(options, 9.0) == kept_s


@pytest.mark.parametrize("damaged", [b"", b'{"keep":', b'{"keep":"3"}', b'{"ke\xffp":3}', b"[]"])
def test_damaged_options_say_nothing(damaged: bytes) -> None:
    assert own_keep_s(damaged, 9.0) == 9.0
