"""What is measured of a dub, one file per question; METRICS is the table of all of it."""
