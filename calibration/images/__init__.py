"""Image sets embedded in the package."""
