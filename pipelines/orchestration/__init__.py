"""What only Dagster needs: the assets of sources and SELECT files, their checks, sensors, schedules and resources.

    source, SELECT files ──assets──> runs of landing.land and transform.run ──> metadata, checks

Belongs here: what imports Dagster, but for the command line. Not here: what a run does (`landing`, `transform`).
"""
