"""The errors limla raises for its users.

    ValueError
    └── LimlaError              one clear line: what, where, which values are allowed, what to do
        ├── UnknownNameError    a name that is in no catalogue
        ├── MissingDependencyError  an optional package is not installed
        ├── SettingsError       settings that contradict each other or an existing folder
        ├── DataError           a file on disk is missing, damaged or not what its manifest says
        ├── ProcessLostError    another of the processes that torchrun started has ended
        └── BenchmarkError      a contender failed, or contenders did not do the same work

The command line prints a `LimlaError` as one line and exits with code 2. Bugs of our own are
`assert`ed and keep their traceback.
"""


class LimlaError(ValueError):
    """A mistake in input or settings that the user can mend; the message says how."""


class UnknownNameError(LimlaError):
    """A codec, attack, model, loader … that no catalogue lists."""


class MissingDependencyError(LimlaError):
    """An optional package that a chosen plug needs is not installed."""


class SettingsError(LimlaError):
    """Settings out of range, in contradiction, or different from those an existing folder was made with."""


class DataError(LimlaError):
    """A file on disk that is missing, damaged, or different from what its manifest says."""


class ProcessLostError(LimlaError):
    """Another of the processes that work together has ended, of an error of its own that it tells itself."""


class BenchmarkError(LimlaError):
    """A contender of a benchmark failed, or contenders did not do the same work: the numbers would mean nothing."""
