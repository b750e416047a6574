"""Problem files, tensors, tables, and whole files or none."""
