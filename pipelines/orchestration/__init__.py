"""What only Dagster needs: assets made of sources and SELECT files, their metadata, sensors, the instance."""
