"""Which resolution fits which token limit: points of a sweep, measured by an engine, and the matrix."""
