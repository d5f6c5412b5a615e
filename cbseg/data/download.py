"""Fetch a dataset: ``python -m cbseg.data.download covidC``; ``--verify`` only looks whether it is all there.

Licence and citation are printed first. Downloads resume, are checked against the repository's checksums, and unpack
into the dataset's folder only. What can only be fetched by hand is explained instead.
"""

import argparse
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
from pooch.downloaders import doi_to_repository
from rich.progress import Progress

from cbseg.data.sources import SOURCES, Source
from cbseg.errors import InputError

_TRIES = 5
_CHUNK = 1 << 14  # bytes; a break loses at most so many
_NIFTI = (".nii", ".nii.gz")


def verify(source: Source, root: Path) -> None:
    """Check that a dataset is all there, by its files' names.

    Raises:
        InputError: Saying what is missing.
    """
    found = len(source.find_scans(root))
    if found != source.scans:
        raise InputError(f"{root}: holds {found} scans of {source.scans}; fetch the rest")


def from_doi(doi: str, archive: str) -> tuple[str, str]:
    """Look up an archive's address and checksum in its repository.

    Raises:
        InputError: If the repository cannot be reached or has no such file.
    """
    try:
        repository = doi_to_repository(doi)
        registry = pooch.create(path="", base_url="", registry={})
        repository.populate_registry(registry)
        return repository.download_url(archive), registry.registry[archive]
    except (requests.RequestException, ValueError, KeyError) as error:
        raise InputError(f"doi {doi}: cannot find {archive} ({error}); are you online? Try again later") from error


def download(source: Source, root: Path, locate: Callable[[str, str], tuple[str, str]] = from_doi) -> None:
    """Fetch what is missing, check it, and unpack it; do nothing if all is there.

    Archives lie in ``<root>/downloads`` until everything is unpacked; an interrupted download goes on from there.

    Args:
        source: What to fetch.
        root: The dataset's folder.
        locate: ``locate(doi, archive)`` gives its address and checksum.

    Raises:
        InputError: If it must be fetched by hand, or a download, a checksum or an archive is bad.
    """
    try:
        return verify(source, root)
    except InputError as missing:
        if source.by_hand:
            raise InputError(f"{source.by_hand.format(root=root)}\nFirst thing missing: {missing}") from missing
    downloads = root / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for archive in source.archives:
        url, checksum = locate(source.doi, archive)
        try:
            path = pooch.retrieve(url, checksum, archive, downloads, downloader=fetch_resuming)
        except ValueError as error:
            raise InputError(
                f"{url}: arrived with another checksum than its repository gives; nothing was kept. Try again"
            ) from error
        except (requests.RequestException, OSError) as error:
            raise InputError(f"{url}: download failed ({error}); run the command again to go on") from error
        unpack(Path(path), root / Path(archive).stem)
    verify(source, root)
    shutil.rmtree(downloads)
    return None


def fetch_resuming(url: str, output_file: str, pooch: Any) -> None:
    """Download for pooch, and go on where a broken download stopped.

    Raises:
        requests.RequestException: If the server fails several times.
    """
    target = Path(output_file)
    part = target.parent / (PurePosixPath(url.split("?")[0]).name + ".part")
    for attempt in range(1, _TRIES + 1):
        try:
            _fetch_rest(url, part)
            break
        except requests.RequestException:
            if attempt == _TRIES:
                raise
    part.replace(target)


def _fetch_rest(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    with requests.get(url, headers={"Range": f"bytes={have}-"} if have else {}, stream=True, timeout=60) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # all of it is there; the checksum tells
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        total = int(answer.headers.get("Content-Length", 0)) + (have if resumed else 0)
        with part.open("ab" if resumed else "wb") as file, Progress(transient=True) as progress:
            task = progress.add_task(part.stem, total=total or None, completed=have if resumed else 0)
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive's NIfTI files into a folder, whole or not at all, whatever folders they have inside.

    Raises:
        InputError: If it is no zip file, is damaged, holds no NIfTI file, or holds a link or a path out of it;
            the archive is removed, so that the next download fetches it anew.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                path = PurePosixPath(member.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16):
                    raise InputError(
                        f"{archive}: holds {member.filename!r}, which leads out of its folder; do not trust this file"
                    )
                if path.name.endswith(_NIFTI) and not path.name.startswith("."):
                    with opened.open(member) as packed, (part / path.name).open("xb") as file:
                        shutil.copyfileobj(packed, file)
        if not any(part.iterdir()):
            raise InputError(f"{archive}: holds no NIfTI files; is it the right archive?")
    except (InputError, zipfile.BadZipFile, OSError) as error:
        shutil.rmtree(part)
        archive.unlink()
        if isinstance(error, InputError):
            raise
        raise InputError(f"{archive}: cannot be unpacked ({error}); run the command again") from error
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Fetch a dataset.")
    parser.add_argument("data", choices=list(SOURCES))
    parser.add_argument("--root", type=Path, help="its folder (default: data/<data>)")
    parser.add_argument("--verify", action="store_true", help="only check whether it is all there")
    arguments = parser.parse_args()
    source, root = SOURCES[arguments.data], arguments.root or Path("data") / arguments.data
    print(f"{source.title}\nlicence: {source.licence}\nplease cite: {source.citation}")
    try:
        (verify if arguments.verify else download)(source, root)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{root}: all {source.scans} scans are there")


if __name__ == "__main__":
    main()
