"""How long hypothesis plays the state machines of the whole queue: `make model STEPS=100000` has them play for the night."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

IS_LONG = "KQS_MODEL_STEPS" in os.environ


def played(steps: int, steps_a_run: int, share: int = 1) -> settings:
    """Return the settings of a machine.

    Args: steps: in all, unless the environment says how many. share: 1 of so many of these is its.
    """
    in_all = int(os.environ.get("KQS_MODEL_STEPS", steps))
    return settings(
        max_examples=max(1, in_all // steps_a_run // share),
        stateful_step_count=steps_a_run,
        derandomize=not IS_LONG,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
