"""One function per word of the line: artifacts and a section in, a sealed artifact out."""
