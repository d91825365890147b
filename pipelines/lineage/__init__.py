"""Where a row came from, and what the tables of a domain held after any run.

trace          one row ──> its payload, request, runs and SELECT file
rebuild        staging ──> shadow schema ──> compared with the live tables, or merged into them
time_travel    staging as of a run ──> shadow schema ──> printed, kept, or compared with another run
"""
