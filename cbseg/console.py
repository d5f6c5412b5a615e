"""What the command lines that look at people's files have in common."""

import io
import logging
import sys
import warnings
from typing import TextIO


def prepare_console(warn_on: TextIO | None = None) -> None:
    """Print names of files that are not UTF-8 too, as names are bytes, and each warning of ours as a line.

    pydicom's, of values that its standard does not allow, name no file, and one may be as long as the whole file.

    Args:
        warn_on: Where warnings go; standard error by default.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s", stream=warn_on)
    warnings.filterwarnings("ignore", module="pydicom")
