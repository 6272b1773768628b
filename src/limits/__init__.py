"""Which resolution fits which token limit: points of a sweep, what an engine says to them, the matrix."""
