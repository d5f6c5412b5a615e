"""From files to batches: scans are found and read, prepared once in a store, split, annotated and batched."""
