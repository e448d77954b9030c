"""Languages, speaking time, and subtitles."""
