"""The latency-vs-depth lab: networks, engines and peers side by side, and the cost of depth."""
