"""What can go wrong, and whose it is to mend. The exit code of the command line is the error's own."""


class SunvisorError(Exception):
    """Base of every error that Sunvisor raises on purpose. The message is one sentence: which file, where, what, what to do."""

    exit_code = 1


class InputError(SunvisorError):
    """The user can mend it: a file that is no video, a misspelt key, an output that cannot be written. Exit code 2."""

    exit_code = 2


class ConversionError(SunvisorError):
    """The conversion failed through no choice of the user's: a worker died N times, the disk filled up. Exit code 1."""
