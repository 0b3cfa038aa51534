"""The closed world of textured shapes that the embedded model draws: grammar, renderer, judge."""
