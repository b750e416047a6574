"""High-dimensional dynamics of quantized SGD: predict, simulate, compare."""
