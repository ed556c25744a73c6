"""Features of slides on disk, and the tables that say which slide is what."""
