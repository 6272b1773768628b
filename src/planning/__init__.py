"""Config and prompts become a frozen plan, checked and counted before anything starts.

It reads files; it starts nothing and writes nothing but plan.json.
"""
