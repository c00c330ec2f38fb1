"""From pictures to labels: image files, folders, a camera; one engine, or several side by side."""
