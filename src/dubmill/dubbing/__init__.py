"""Dubbing of a clip or a film, shared by the command line, the server and the step `dub`."""
