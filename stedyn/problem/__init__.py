"""The problem: populations, quantizers, rule and horizon."""
