"""Weakly supervised, consistency-based segmentation of COVID-19 in CT (Laradji et al. 2020)."""

__version__ = "0.1.0"
