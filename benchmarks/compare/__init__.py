"""Earlier runs of `bench`: read back, resumed, and compared to find a slowdown."""
