"""Random small networks, each taken through the whole toolkit and judged by independent numbers."""
