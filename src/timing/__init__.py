"""How long phases take: progress, measurements, estimates for the next run."""
