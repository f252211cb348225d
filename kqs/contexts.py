"""Context variables as each run finds them: as they were when the server started, whatever earlier runs have made of them.

A value that is changed in place is shared by all who copied its context. The one that every Python has is `decimal`'s, which
holds precision and rounding; each run gets one of its own. Values of users' own variables are theirs to keep apart.
"""

from __future__ import annotations

import contextvars
import decimal

_DECIMAL = "decimal_context"


class Contexts:
    """Makes contexts for runs. Safe in any thread."""

    def __init__(self) -> None:
        """Take the variables of whoever calls for those of each run."""
        self.base = contextvars.copy_context()
        self._decimal = next((value.copy() for variable, value in self.base.items() if variable.name == _DECIMAL), None)

    def new(self) -> contextvars.Context:
        """Return a context that no run has had."""
        context = self.base.copy()
        if self._decimal is not None:
            context.run(decimal.setcontext, self._decimal.copy())
        return context


class Snapshot:
    """How the current context is now."""

    __slots__ = ("_context", "_decimal")

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        has_decimal = any(variable.name == _DECIMAL for variable in self._context)
        self._decimal = repr(decimal.getcontext()) if has_decimal else None

    def is_current(self) -> bool:
        """Tell whether nothing has changed. Raises: anything: values are compared by their authors' `__eq__`."""
        if contextvars.copy_context() != self._context:
            return False
        return self._decimal is None or repr(decimal.getcontext()) == self._decimal
