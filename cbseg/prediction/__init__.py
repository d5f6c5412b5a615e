"""What a run predicts for new CT: the network, and all that is written of its labels."""
