"""How every part of nano is trained from nothing: one loop, one module per part."""
