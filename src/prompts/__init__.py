"""Prompt files of every format in, as checked specs. It opens no clip and plans nothing."""
