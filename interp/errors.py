"""What goes wrong, and the exit code that the command line gives it.

Every message is one sentence that a user can act on: what was given, what is allowed, how to
mend it.
"""


class MechguardError(Exception):
    """Base of all errors that a user can mend; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(MechguardError):
    """A file, an argument or a data set is not usable as given."""

    exit_code = 2


class UnsupportedModelError(MechguardError):
    """The architecture is outside of what an analysis can measure correctly."""

    exit_code = 3


class CheckError(MechguardError):
    """A check that the user asked for did not hold."""

    exit_code = 1
