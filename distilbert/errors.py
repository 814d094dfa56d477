"""The one exception that means "the user can mend this": scripts print it in a line or two and exit with status 2."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the share of it that is ours: no file's fault and no server's
COMPILERS = ("torch._dynamo", "torch._inductor")  # the modules whose errors mean that torch.compile failed


class UserError(ValueError):
    """A mistake in a file, a flag or a value. The message says what, where, what was expected, and how to fix it."""
