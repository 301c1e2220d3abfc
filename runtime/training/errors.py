"""What can stop a training run, each with what to do about it."""

from __future__ import annotations


class TrainingError(Exception):
    """Base of the reasons to stop; the message is complete and meant for the user."""


class DeviceError(TrainingError):
    """The device does not exist here."""


class DataError(TrainingError):
    """The data cannot be found, read, or used."""


class StorageError(TrainingError):
    """The run folder cannot be written or read."""


class DivergedError(TrainingError):
    """A loss or a gradient is not finite; `where` is the module that produced it first."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where
