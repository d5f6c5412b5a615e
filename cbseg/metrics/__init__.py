"""Dataset-level scores: segmentation (paper §4.1.2), and counting and localisation (§4.4)."""

from cbseg.metrics.counting import (
    COUNTING_SCORES,
    GAME,
    CountingScores,
    CountMAE,
    count_errors,
    counting_scores,
    region_grid,
)
from cbseg.metrics.counts import Counts, score_scans
from cbseg.metrics.segmentation import (
    COUNTS,
    SCORES,
    SegmentationScores,
    count_pixels,
    segmentation_scores,
    undefined_scores,
)

__all__ = [
    "COUNTING_SCORES",
    "COUNTS",
    "GAME",
    "SCORES",
    "CountMAE",
    "CountingScores",
    "Counts",
    "SegmentationScores",
    "count_errors",
    "count_pixels",
    "counting_scores",
    "region_grid",
    "score_scans",
    "segmentation_scores",
    "undefined_scores",
]
