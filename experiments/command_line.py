"""What the command lines of the experiments share."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbseg.errors import InputError


@contextmanager
def one_message() -> Iterator[None]:
    """End the command with one message and exit code 1 where its input is bad, or its output cannot be written."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}; --out takes another folder to write into")


def parse_with_runs(parser: ArgumentParser) -> Namespace:
    """Parse a command line with ``runs``, where the runs are, and ``out``, into which to write: ``runs`` by default."""
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="where the runs are")
    parser.add_argument("--out", type=Path, help="folder to write into, where runs cannot be written (default: runs)")
    arguments = parser.parse_args()
    arguments.out = arguments.out or arguments.runs
    _refuse_links(arguments.out)
    return arguments


def _refuse_links(out: Path) -> None:
    """End the command where what it writes would go elsewhere: a folder of runs that was shared may hold links."""
    for written in (out / "report.html", out / "tables", out / "figures"):
        for path in (written, *written.rglob("*")):
            if path.is_symlink():
                sys.exit(f"error: {path}: is a link, and nothing is written where it leads; remove it, or give --out")
