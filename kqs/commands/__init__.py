"""Commands: programs that run jobs, each run a process of its own below a helper process (kqs.minding)."""

from kqs.commands.commands import Commands

__all__ = ["Commands"]
