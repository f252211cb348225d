from __future__ import annotations

import pytest

from kqs.broker.beanstalkd.stats import ServerStats, TubeStats, server_stats, tube_stats
from kqs.wire.beanstalk.values import Ok, Word


def test_a_server_tells_which_life_of_it_answers_and_what_it_bears() -> None:
    body = b"---\ncurrent-jobs-ready: 7\nmax-job-size: 100\nid: 0123abcd\ndraining: true\n"
    assert server_stats(Ok(body)) == ServerStats("0123abcd", True, 7, 100)


def test_an_old_server_is_known_by_its_process() -> None:
    assert server_stats(Ok(b"---\npid: 42\n")) == ServerStats("42", False, 0, 65_535)


@pytest.mark.parametrize("reply", [Word.UNKNOWN_COMMAND, Ok(b"---\n"), Ok(b"---\nid: a\nmax-job-size: many\n")])
def test_what_answers_otherwise_is_no_server(reply: Word | Ok) -> None:
    with pytest.raises(ValueError):
        server_stats(reply)


def test_a_tube_that_is_not_there_is_empty() -> None:
    assert tube_stats(Word.NOT_FOUND) == TubeStats(0, 0, 0)
    body = b"---\ncurrent-jobs-ready: 1\ncurrent-jobs-delayed: 2\npause-time-left: 3\n"
    assert tube_stats(Ok(body)) == TubeStats(1, 2, 3)
