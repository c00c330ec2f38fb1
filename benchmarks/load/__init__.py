"""Concurrent requests: LoadGen scenarios, streams of cameras, the server."""
