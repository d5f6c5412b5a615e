"""A page for clicking, on this machine alone: ``python -m cbseg.click <folder>``."""
