"""Many requests at once: LoadGen scenarios, streams of cameras, the server."""
