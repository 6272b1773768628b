"""Machines that run commands, and how one job lives there: its folder, its worker, its files.

The only package that knows SSH, Docker and processes. It does not know what the results of a job mean.
"""
