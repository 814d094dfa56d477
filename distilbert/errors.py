"""The one exception that means "the user can mend this": scripts print it in a line or two and exit with status 2."""


class UserError(ValueError):
    """A mistake in a file, a flag or a value. The message says what, where, what was expected, and how to fix it."""
