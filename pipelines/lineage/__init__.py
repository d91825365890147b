"""Where a row came from, and what a domain was: trace, rebuild, time travel."""
