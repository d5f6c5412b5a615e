"""What ``experiments.bench`` measures, each part beside a plain baseline in the same run."""
