"""The latency-vs-depth lab: networks, engines and peers side by side, and what depth costs."""
