import pytest
from msgspec.structs import replace

from kqs.job import entry_again
from tests.support.jobs import a_run


@pytest.mark.parametrize(("data", "shown"), [(b"7", b"7"), (b"1" * 5000, b"1" * 5000), (b"1" * 5001, None), (b"", None)])
def test_a_broker_is_shown_short_data_of_a_job_that_waits_again_unless_it_was_let_go(data: bytes, shown: bytes | None) -> None:
    run = replace(a_run(options=b"{}"), data=data)
    assert (entry_again(run, 5000).data, entry_again(run, None).data) == (shown, None)
