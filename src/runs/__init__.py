"""One plan to its end: stage items, supervise jobs, write down how each item ends, reuse answers.

It does not know how a job runs on a host (hosts), nor what a finished run writes (reports).
"""
