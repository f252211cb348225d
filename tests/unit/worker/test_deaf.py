"""How long is waited for who was asked to end, from the innermost outwards."""

from __future__ import annotations

from kqs.commands.channel import END_WITHIN_S
from kqs.executor import threads
from kqs.minding.minder import TERM_S
from kqs.worker.deaf import DEAF_AFTER_S


def test_a_command_is_killed_and_its_minder_given_up_before_its_handler_counts_as_deaf() -> None:
    assert TERM_S < END_WITHIN_S < DEAF_AFTER_S


def test_a_thread_is_given_up_before_its_handler_counts_as_deaf() -> None:
    assert threads.END_WITHIN_S < DEAF_AFTER_S
