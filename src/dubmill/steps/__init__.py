"""The steps of the pipeline, one function each: artifacts and a section of the params in, a sealed artifact out."""
