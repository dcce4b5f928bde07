"""The one error that is the user's to mend: a message, and a hint that says how."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user: a table, a setting, a file, a folder.

    Both parts are attributes of the same names.

    Args:
        message: what was expected and what was received, one sentence.
        hint: what to do about it, one sentence; empty when the message already says so.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        """Rebuild from both parts: the default would pass the joined text only."""
        return type(self), (self.message, self.hint)
