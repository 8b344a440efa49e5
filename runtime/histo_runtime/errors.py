"""What can go wrong, by name: each error is a `HistoError` and the builtin that fits.

The text of an error is one line: what happened, to which file or argument, and what to do about it.
"""


class HistoError(Exception):
    """Base of every error that this project raises on purpose."""


class InputError(HistoError, ValueError):
    """The patches, labels or arguments given can't be used."""


class UsageError(InputError):
    """An option or argument has a value that it can't have; commands exit with 2."""


class PatchError(HistoError, ValueError):
    """One patch can't be decoded or does not fit the model."""


class SlideError(HistoError, ValueError):
    """One slide, or a region of it, can't be read or used."""


class ModelNotFoundError(HistoError, FileNotFoundError):
    """There is no model file where one was named."""

    # FileNotFoundError formats (errno, strerror); ours is a plain sentence.
    __str__ = Exception.__str__


class ModelFileError(HistoError, ValueError):
    """A model file can't be opened, or is not the kind of model asked for."""


class CardError(HistoError, ValueError):
    """A model card is missing, or says something that version 1 of the contract does not allow."""


class DeviceError(HistoError, RuntimeError):
    """The device that was named can't run the model."""


class OutputError(HistoError, OSError):
    """An output can't be written, or exists already."""

    __str__ = Exception.__str__


class MissingExtraError(HistoError, ImportError):
    """An optional dependency is not installed."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """Describe a missing package by the line that installs it."""
    return MissingExtraError(f'{purpose} needs {package}: pip install "histo-edge[{extra}]"')


def reason_of(error: BaseException) -> str:
    """Return what an error of a library or of the system says, in one line; its class when it says nothing.

    Of the system's the words alone: their number and the file are not for the reader, or stand in the line already.
    """
    words = (isinstance(error, OSError) and error.strerror) or error
    return " ".join(str(words).split()) or type(error).__name__
