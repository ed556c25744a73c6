"""Every error that a user can cause, and mend.

SagError
├── ConfigError          a setting or an option is unknown, missing or out of range      exit 2
│   ├── CohortError      the cohort table holds rows that cannot be used                 exit 2
│   ├── AnnotationError  an annotation file cannot be read, or is unsafe to read         exit 2
│   └── BagError         features, tiles and guidance of a slide do not fit together     exit 2
├── SlideError           a slide cannot be read: missing, corrupt, unsupported           exit 3
├── NotAnalysableError   a slide can be read but not analysed: no tissue, no mpp         exit 4
├── ModelError           a model artefact is refused: hash, schema, dimension, format    exit 5
│   ├── RepositoryError  the model repository is incomplete, or of another version       exit 5
│   └── ExportError      the ONNX graph does not say what the PyTorch model says         exit 5
├── EngineError          the server, or ONNX Runtime, refused, failed or answered nonsense  exit 6
├── OutputError          a result cannot be written                                      exit 7
├── BatchError           a batch is done, some slides failed                             exit 8
└── MissingExtraError    an optional part of sagdeploy is not installed                  exit 2
"""

from typing import ClassVar


class SagError(Exception):
    """Base of the errors shown to a user as one line, without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", place: str = "") -> None:
        """hint: what to type next; place: a path or an address, for the terminal alone."""
        super().__init__(f"{place}: {message}" if place else message)
        self.message = message
        """Without the place: what may be written into records."""

        self.hint = hint


class ConfigError(SagError):
    """A setting or an option is unknown, missing or out of range."""

    exit_code = 2


class CohortError(ConfigError):
    """The cohort table holds rows that cannot be used; the message lists all of them."""


class AnnotationError(ConfigError):
    """An annotation file cannot be read, or is unsafe to read."""


class BagError(ConfigError):
    """Features, tiles and guidance of a slide do not fit together, or are missing."""


class MissingExtraError(ConfigError):
    """A command needs a part of sagdeploy that is not installed."""


class SlideError(SagError):
    """A slide cannot be read: missing, empty, corrupt, truncated or unsupported."""

    exit_code = 3


class NotAnalysableError(SagError):
    """A slide can be read but not analysed: no tissue, no microns per pixel."""

    exit_code = 4


class ModelError(SagError):
    """A model artefact is refused: hash, schema, dimension or unsafe format."""

    exit_code = 5


class RepositoryError(ModelError):
    """The model repository is incomplete, or holds another version than was asked for."""


class ExportError(ModelError):
    """The ONNX graph does not say what the PyTorch model says."""


class EngineError(SagError):
    """The server, or ONNX Runtime, refused, failed or answered nonsense."""

    exit_code = 6


class OutputError(SagError):
    """A result cannot be written."""

    exit_code = 7


class BatchError(SagError):
    """A batch is done, but some of its slides failed; `run.json` says which and why."""

    exit_code = 8
