"""Laws of the inputs and their moments."""
