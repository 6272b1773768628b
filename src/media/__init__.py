"""Clips and frames: read a header, choose frames and sizes, decode, render and encode hints.

It knows no token, no model and no run.
"""
