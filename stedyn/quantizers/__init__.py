"""Quantizers: levels, thresholds, rounding; their Gaussian pieces; their names in other libraries."""
