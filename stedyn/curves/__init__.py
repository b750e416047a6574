"""Plateaus and objectives of a curve: NumPy alone, no theory."""
