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


class NumericalError(MechguardError):
    """What a model computed is NaN or infinite, and no number can be reported from it."""

    exit_code = 2


class CheckError(MechguardError):
    """A check that the user asked for did not hold."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of another library's message, to quote inside a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """The whole message of another library on one line, to quote inside a sentence of ours."""
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    return text[:200] or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out.

    On a GPU, in numpy, or in torch's allocator of the CPU, which raises a bare RuntimeError.
    """
    named = type(error).__name__ == "OutOfMemoryError"  # torch's; it is not imported for this
    return named or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
