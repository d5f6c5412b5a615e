"""Where the paper's datasets come from, and what to do where one is not there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cbseg.data import covid_a, covid_b, covid_c
from cbseg.data.scans import Scan


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from.

    Args:
        title: Its name.
        licence: What its publisher allows.
        citation: What to cite.
        find_scans: Finds its scans below a folder.
        scans: How many there are.
        doi: Of the record that holds its archives; empty where it can only be fetched by hand.
        archives: The archives to fetch; each one's NIfTI files go into a folder of its name.
        by_hand: What to fetch from where, and where to put it.
    """

    title: str
    licence: str
    citation: str
    find_scans: Callable[[Path], Sequence[Scan]]
    scans: int
    doi: str = ""
    archives: tuple[str, ...] = ()
    by_hand: str = ""


SOURCES = {
    "covidA": Source(
        "COVID-19-A: 98 slices of the MedSeg dataset, as arranged for COVID-SemiSeg",
        "for non-commercial use; see the two publishers' pages",
        "MedSeg, COVID-19 CT segmentation dataset, 2020; Fan et al., Inf-Net, IEEE Trans. Medical Imaging, 2020",
        covid_a.find_scans,
        98,
        by_hand="The COVID-SemiSeg release can only be fetched by hand: follow 'COVID-SemiSeg Dataset' on the page of\n"
        "the Inf-Net project, and unpack it so that these four folders exist below {root}:\n"
        + "\n".join(f"  Dataset/{folder}/{kind}" for folder in covid_a.FOLDERS.values() for kind in ("Imgs", "GT")),
    ),
    "covidB": Source(
        "COVID-19-B: nine CT volumes from MedSeg, 829 slices",
        "as its figshare record states",
        "MedSeg, COVID-19 CT segmentation dataset 2, 2020",
        covid_b.find_scans,
        9,
        doi="10.6084/m9.figshare.13521509.v2",
        archives=("rp_im.zip", "rp_msk.zip"),
    ),
    "covidC": Source(
        "COVID-19-C: 20 CT volumes, 3,520 slices",
        "as its Zenodo record states",
        "Ma et al., COVID-19 CT lung and infection segmentation dataset, 2020, doi 10.5281/zenodo.3757476",
        covid_c.find_scans,
        20,
        doi="10.5281/zenodo.3757476",
        archives=("COVID-19-CT-Seg_20cases.zip", "Infection_Mask.zip"),
    ),
}


def explain_missing(missing: Mapping[Path, str]) -> str:
    """Explain how to get each of some datasets that are not there.

    Args:
        missing: The folders where they should be, and each one's name.

    Returns:
        A message of a line each, and what else can be done.
    """
    lines = [f"{name}: {root}: no such folder; {_how_to_get(name, root)}" for root, name in missing.items()]
    return "\n".join(
        [
            *lines,
            "If it lies elsewhere: data_dir=<folder with covidA, covidB, covidC>; of one dataset: data.root=<folder>",
            "To see it work without data: experiment=demo",
        ]
    )


def _how_to_get(name: str, root: Path) -> str:
    if name not in SOURCES:
        return "put its files there, or name the folder that holds them"
    place = "" if root == Path("data") / name else f" --root {root}"
    command = f"python -m cbseg.data.download {name}{place}"
    return f"{command} says how to get it by hand" if SOURCES[name].by_hand else f"{command} fetches it"
