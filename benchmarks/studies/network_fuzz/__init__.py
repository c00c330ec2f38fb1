"""Random small networks, each taken through the whole toolkit and judged by numbers of its own."""
