"""The lexicon's recordings: neural voices, and the recogniser that decides which voice may speak which language."""
