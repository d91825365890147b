"""How the warehouse works: landing, transforming, proving. Knows no domain; `assets` says what there is."""
