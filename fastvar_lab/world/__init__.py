"""The closed world of textured shapes that the shipped model draws: grammar, renderer, judge."""
