"""Choices: ranges, calibration, maps, sensitivities, layers."""
