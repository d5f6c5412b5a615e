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
from cbseg.metrics.surface import SURFACE_SCORES, check_surface, surface_scores, surface_sums
from cbseg.metrics.thresholds import LOG_ODDS, count_levels, threshold_counts

__all__ = [
    "COUNTING_SCORES",
    "COUNTS",
    "GAME",
    "LOG_ODDS",
    "SCORES",
    "SURFACE_SCORES",
    "CountMAE",
    "CountingScores",
    "Counts",
    "SegmentationScores",
    "check_surface",
    "count_errors",
    "count_levels",
    "count_pixels",
    "counting_scores",
    "region_grid",
    "score_scans",
    "segmentation_scores",
    "surface_scores",
    "surface_sums",
    "threshold_counts",
    "undefined_scores",
]
