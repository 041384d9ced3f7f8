"""Training from a configuration, and the run folders that it leaves."""

from ...core.files import StorageError as StorageError
from .folder import RunWarning as RunWarning
from .lifecycle import load as load
from .lifecycle import resume as resume
from .lifecycle import train as train
from .progress import Progress as Progress
from .results import Result as Result
