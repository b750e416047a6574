"""Curves and maps on axes, and how a result shows itself."""
