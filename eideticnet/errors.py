"""What can go wrong, by kind. Every message names the thing and says what to do."""

from typing import Any


class EideticError(Exception):
    """Base of all errors that this library raises on purpose. Each can be passed on to another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        # what ``__init__`` takes is not what it leaves in ``args``
        return Exception.__new__, (type(self), *self.args), self.__dict__


class UnsupportedError(EideticError):
    """The trunk contains something for which the guarantee can't be held."""


class DataError(EideticError):
    """Training data that does not fit the network or the task."""


class RowError(DataError):
    """``what`` is wrong with one row of the data, number ``row`` of what was looked at."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(f"row {row}: {what}")
        self.row, self.what = row, what


class CapacityError(EideticError):
    """A layer has no free neuron left and the caller did not say what to do then: ``found`` says which,
    ``remedy`` what to do."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found, remedy)
        self.found = found

    def __str__(self) -> str:
        return "; ".join(self.args)


class DivergedError(EideticError):
    """The loss became NaN or infinite; the network is as it was before."""


class NotReadyError(EideticError):
    """The network can't answer this yet, for example unpinned requests without a router."""


class BusyError(EideticError):
    """Something else changes the network at the same time; this call did nothing."""


class DamagedError(EideticError):
    """A frozen weight is no longer the number that was frozen."""


class CheckpointError(EideticError):
    """A checkpoint that can't be written or read."""


class ConfigError(EideticError):
    """A configuration file that says something impossible."""


class MissingExtraError(EideticError):
    """An optional library that is not installed."""


class TrunkWarning(UserWarning):
    """Something that a trunk does while it trains and a task learned on it would not."""


class UnderfitWarning(UserWarning):
    """Training ended while there was more to learn."""


class BudgetWarning(UnderfitWarning):
    """A pruning budget that costs more accuracy than the threshold, or that not all tasks can have."""


class DataWarning(UserWarning):
    """Data from which something can be learned, though hardly what is meant."""
