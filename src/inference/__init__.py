"""Cosmos inference after the prompts: which prompt and controls each item uses, NVIDIA's command, the videos.

It does not render, upsample or report.
"""
