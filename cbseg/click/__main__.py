"""Serve a page on which to click on the scans of a folder: ``python -m cbseg.click <folder>``.

Clicks are written as 3D Slicer's ``<scan>.mrk.json`` beside each scan, whole or not at all, each at once.
"""

import argparse
import logging
import sys
from pathlib import Path

from cbseg.click.predictions import Predictions, last_run
from cbseg.click.scans import ClickScans, find
from cbseg.click.server import ClickServer
from cbseg.click.study import Study
from cbseg.config import compose
from cbseg.console import prepare_console
from cbseg.data.annotation import ClassNames
from cbseg.data.volume_scan import require_window
from cbseg.errors import InputError
from cbseg.hardware import keep_freed_memory
from cbseg.overrides import OVERRIDE_ERRORS, explain_override
from cbseg.prediction.predictor import Predictor

log = logging.getLogger(__name__)

_PORT = 8765


def serve(arguments: argparse.Namespace) -> ClickServer:
    """Make the server that a command line asks for.

    Raises:
        InputError: If there is nothing to click on, or a setting is refused.
        OSError: If the port is taken.
    """
    config = compose(["data=own", *arguments.overrides])
    reading = config.data.find_scans
    ClassNames(reading.classes)
    scans = ClickScans(find(arguments.root, reading.classes), require_window(reading.window))
    run = arguments.run or last_run(Path(config.runs), arguments.root)
    predictions = None
    try:
        predictions = (
            None
            if run is None
            else Predictions(Predictor(run, device=arguments.device, trusted=arguments.trust), scans)
        )
    except InputError as error:
        if arguments.run is not None:
            raise
        log.warning("%s; the page shows no prediction", error)
    return ClickServer(Study(scans, reading.classes, predictions), arguments.port)


def main() -> None:
    """Run the command line, until it is ended."""
    arguments = _parser().parse_args()
    prepare_console()
    keep_freed_memory()
    try:
        server = serve(arguments)
    except OVERRIDE_ERRORS as error:
        sys.exit(f"error: {explain_override(error)}")
    except InputError as error:
        sys.exit(f"error: {error}")
    except (OSError, OverflowError) as error:
        sys.exit(f"error: --port {arguments.port}: {error}; give another one, or 0 for a free one")
    scans, predictions = server.study.scans.scans, server.study.predictions
    beneath = f"predictions of {predictions.predictor.run} beneath" if predictions else "no run to predict them yet"
    print(f"{len(scans)} scans, {beneath}. Open this address, which is secret; Ctrl+C ends:")
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("ended; all clicks are saved")
    finally:
        server.server_close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Serve a page for clicking, on this machine alone.")
    add = parser.add_argument
    add("root", type=Path, help="the folder with your CT, as for data=own")
    add("overrides", nargs="*", help="of the config, such as +data.find_scans.classes.ggo=1 or runs=<folder>")
    add("--run", type=Path, help="whose predictions lie beneath the clicks (default: the newest on this folder)")
    add("--device", default="auto", help="auto, cpu or cuda, for predictions (default: auto)")
    add("--trust", action="append", default=[], metavar="NAME", help="a network of the run that is none of cbseg's")
    add("--port", type=int, default=_PORT, help=f"0 takes a free one (default: {_PORT})")
    return parser


if __name__ == "__main__":
    main()
