"""Trained weights shipped with the package, each with its model card."""
