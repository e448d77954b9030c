"""A dub of a clip or a film, as the command line and the server make it."""
