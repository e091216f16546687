"""The errors that this package raises on purpose.

FastVLMError
 |- AdapterError       an adapter cannot be read, written or put on this model
 |- CheckpointError    a model folder, file or archive cannot be read
 |- ContextError       a conversation no longer fits the model's context
 |- DataError          data to train on or to score with is missing or malformed
 |- DownloadError      the hub did not answer or refused
 |- ImageError         an image cannot be opened or is too large
 |- OptionError        an option has a value that cannot be honoured
 |- ServerError        another server did not answer, or refused
 |- TrainingError      a training run cannot go on
 `- VideoError         a video cannot be opened or decoded, or is too large

Every message is one line: the thing, its value, the way out. The command line prints
it and exits with 1.
"""

# Of what a message quotes.
_LONGEST_QUOTE = 200
# Longer than any path; a corrupt file can put megabytes into a message.
_LONGEST = 10_000


class FastVLMError(Exception):
    """Base of every error this package raises on purpose."""

    def __init__(self, message: object = ""):
        # Names and values come out of files: none may break the line or repaint the
        # terminal.
        line = "".join(
            c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1]
            for c in str(message)
        )
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST - 300]} ... {line[-300:]}"
        super().__init__(line)


class AdapterError(FastVLMError):
    """An adapter is missing, damaged, of another model or of an unknown form."""


class CheckpointError(FastVLMError):
    """A model folder, file or archive is missing, damaged or of an unknown layout."""


class ContextError(FastVLMError):
    """A prompt and its images do not fit into the model's context."""


class DataError(FastVLMError):
    """Data to train on or to score with is missing, malformed, or does not fit."""


class DownloadError(FastVLMError):
    """A model could not be fetched from the hub."""


class ImageError(FastVLMError):
    """An image cannot be opened, decoded, or is beyond the size limits."""


class OptionError(FastVLMError, ValueError):
    """An option has a value that cannot be honoured."""


class ServerError(FastVLMError):
    """A server that is evaluated did not answer, or refused the key or the model."""


class TrainingError(FastVLMError):
    """A training run cannot go on, as when its loss is no number."""


class VideoError(FastVLMError):
    """A video cannot be opened, decoded, or is beyond the limits."""


def quoted(fault: object) -> str:
    """What a library's `fault` says, to be quoted: one line of at most 200 letters.

    Libraries quote the file that they fail on, however long its lines are.
    """
    text = " ".join(str(fault).split()) or type(fault).__name__
    if len(text) <= _LONGEST_QUOTE:
        return text
    return f"{text[: _LONGEST_QUOTE - 50]}...{text[-47:]}"
