"""How handlers are run, and what their ends mean."""

from kqs.executor.executor import Executor, Suspended, share_decimal_settings

__all__ = ["Executor", "Suspended", "share_decimal_settings"]
