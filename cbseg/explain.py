"""Exceptions told in a few lines: what was raised, and where in the file of one's own that raised it."""

import sysconfig
import traceback
from pathlib import Path
from traceback import FrameSummary

from cbseg.errors import InputError
from cbseg.finite import NonFiniteLossError

_PACKAGE = Path(__file__).parent
_LIBRARIES = ("site-packages", "dist-packages")
_FRAMES = 3


def own_frames(error: BaseException) -> list[FrameSummary]:
    """Return the frames of an exception's traceback that are in no installed library, from the outermost in."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]


def explain(error: BaseException) -> str:
    """Tell an exception by its last frames in the innermost file of one's own, and its type and message.

    What a user can mend without looking at code, such as bad input or a full disk, is told by its message alone.

    >>> explain(InputError("seed=-1: give a whole number"))
    'seed=-1: give a whole number'
    """
    if isinstance(error, InputError | NonFiniteLossError | OSError):
        return str(error)
    frames = own_frames(error)
    innermost = [frame for frame in frames if frame.filename == frames[-1].filename][-_FRAMES:]
    lines = [f"{_short(frame.filename)}:{frame.lineno}, in {frame.name}\n    {frame.line}" for frame in innermost]
    return "\n".join([*lines, "".join(traceback.format_exception_only(error)).rstrip()])


def _is_own(filename: str) -> bool:
    path = Path(filename)
    if not path.is_absolute():  # <string>, <frozen importlib._bootstrap>
        return False
    if path.is_relative_to(_PACKAGE):
        return True
    library = any(part in _LIBRARIES for part in path.parts)
    return not library and not path.is_relative_to(sysconfig.get_paths()["stdlib"])


def _short(filename: str) -> str:
    """Return a path as seen from here, if it is below."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
